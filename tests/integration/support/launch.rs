//! The start, the unseal and the end of a server.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::pki::Pki;
use super::process::Process;
use super::product::Product;
use super::vault::Vault;
use super::{PATIENCE, eventually};

/// How a server is started.
pub struct Launch<'a> {
    pub product: Product,
    /// The product's program, or one of another version.
    pub program: PathBuf,
    /// The network namespace of the process, where it is not the test's own.
    pub network: Option<PathBuf>,
    pub pki: Option<&'a Pki>,
    /// The IP address and the port that it listens on.
    pub host: String,
    pub port: u16,
    /// The configuration's `storage`, and `cluster_addr` beside it.
    pub storage: String,
    pub audit_log: PathBuf,
    pub directory: TempDir,
}

impl Vault {
    /// Starts a server's process, and waits until it answers; `None` when it ended instead.
    pub async fn launch(launch: Launch<'_>) -> Option<Self> {
        let Launch { product, program, network, pki, host, port, storage, audit_log, directory } = launch;
        let (tls, scheme) = match pki {
            Some(pki) => (
                format!(
                    "tls_cert_file = {:?}\n tls_key_file = {:?}\n tls_client_ca_file = {:?}",
                    pki.server_cert, pki.server_key, pki.ca
                ),
                "https",
            ),
            None => ("tls_disable = true".to_owned(), "http"),
        };
        let config = format!(
            "{storage}\n\
             listener \"tcp\" {{ address = \"{host}:{port}\"\n {tls} }}\n\
             {}\
             api_addr = \"{scheme}://{host}:{port}\"\nlog_level = \"warn\"\n",
            product.settings(&audit_log.display().to_string()),
        );
        fs::write(directory.path().join("config.hcl"), config).unwrap();
        let mut http = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
        http = http.tls_backend_preconfigured(pki.map_or_else(Pki::no_tls, Pki::client_config));
        // A certificate's name need not be the address: the tests' own requests go by the name, too.
        let name = pki.map(Pki::server_name).filter(|name| name.parse::<IpAddr>().is_err());
        if let Some(name) = name {
            http = http.resolve(name, SocketAddr::new(host.parse().unwrap(), port));
        }
        let mut vault = Self {
            product,
            process: Process::start(program, network, directory),
            audit_log,
            base: format!("{scheme}://{}:{port}", name.unwrap_or(&host)),
            address: format!("{scheme}://{host}:{port}"),
            root: String::new(),
            unseal_key: String::new(),
            http: http.build().unwrap(),
        };
        vault.wait_up().await?;
        Some(vault)
    }

    /// Initialises the server, unseals it with its one unseal key, and turns its audit log on.
    pub async fn initialise(&mut self) {
        let init = self.post("sys/init", json!({ "secret_shares": 1, "secret_threshold": 1 })).await;
        self.root = init["root_token"].as_str().unwrap().to_owned();
        self.unseal_key = init["keys"][0].as_str().unwrap().to_owned();
        self.unseal().await;
        if self.product.audit_by_request() {
            let options = json!({ "file_path": self.audit_log });
            self.post("sys/audit/log", json!({ "type": "file", "options": options })).await;
        }
    }

    /// Unseals a server that has joined the cluster of an initialised one.
    pub async fn unseal_as_member_of(&mut self, first: &Self) {
        self.root.clone_from(&first.root);
        self.unseal_key.clone_from(&first.unseal_key);
        self.unseal_as_member().await;
    }

    /// Waits until the server answers; `None` when it ended instead.
    async fn wait_up(&mut self) -> Option<()> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if self.process.has_ended() {
                return None;
            }
            let url = format!("{}/v1/sys/seal-status", self.base);
            if self.http.get(url).send().await.is_ok() {
                return Some(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let name = self.product.name();
        panic!("{name} does not answer: {}", self.log());
    }

    pub async fn seal(&self) {
        self.post("sys/seal", Value::Null).await;
    }

    pub async fn unseal(&self) {
        // The server takes a moment from unsealed to active.
        self.unseal_until(&[200]).await;
    }

    /// The same for a member of a cluster, which may become a standby.
    pub async fn unseal_as_member(&self) {
        self.unseal_until(&[200, 429, 473]).await;
    }

    /// Unseals until `sys/health` answers one of these.
    async fn unseal_until(&self, health: &[u16]) {
        let mut unsealed = false;
        eventually("unsealed", async || {
            // A server that joins a cluster refuses the key until it has found the leader.
            if !unsealed {
                let key = json!({ "key": self.unseal_key });
                let (status, answer) = self.request(Method::POST, "sys/unseal", key, "").await;
                if status >= 300 {
                    return Err(format!("{status} {answer}"));
                }
                unsealed = true;
            }
            let (status, answer) = self.request(Method::GET, "sys/health", Value::Null, "").await;
            if health.contains(&status) { Ok(()) } else { Err(format!("{status} {answer}")) }
        })
        .await;
    }

    /// Stops the server's process with SIGSTOP: seen from outside, it hangs.
    pub fn freeze(&self) {
        self.process.freeze();
    }

    pub fn thaw(&self) {
        self.process.signal(Signal::SIGCONT);
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM, as at a planned restart, and waits for the end.
    pub fn terminate(&mut self) {
        self.process.terminate();
    }

    /// Another version of the product for the next start.
    pub fn set_program(&mut self, program: PathBuf) {
        self.process.program = program;
    }

    /// Starts the killed server again on the same data and port.
    pub async fn restart(&mut self) {
        self.start_again().await;
        self.unseal().await;
    }

    /// Starts the killed server again, sealed.
    pub async fn start_again(&mut self) {
        self.process.start_again();
        self.wait_up().await.expect("the server starts again");
    }
}
