//! A server that the recorder brings into a state, alone or as a node of a cluster.
//!
//! `support/vault.rs` starts servers that are well. These need not be: uninitialised, sealed, without a leader.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::call::Call;
use crate::support::pki::Pki;
use crate::support::product::Product;
use crate::support::{PATIENCE, eventually};

/// What a server's configuration has beside the usual.
#[derive(Default)]
pub struct Options<'a> {
    /// More lines of the listener.
    pub listener: &'a str,
    /// More lines of the configuration.
    pub settings: &'a str,
    /// Without the file that OpenBao writes its audit log to.
    pub without_audit_file: bool,
    /// TLS with these certificates. The listener asks for a client certificate, and does not insist.
    pub pki: Option<&'a Pki>,
    /// The name of a node of a cluster, which stores its data by raft.
    pub node: Option<&'a str>,
    /// The address of the node whose cluster it joins.
    pub joins: Option<&'a str>,
}

/// An answer with the headers of which the corpus keeps some.
pub struct RawAnswer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl RawAnswer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
}

/// A running server.
pub struct Server {
    pub product: Product,
    child: Child,
    directory: TempDir,
    pub base: String,
    pub root: String,
    pub unseal_key: String,
    http: reqwest::Client,
}

impl Server {
    /// An initialised and unsealed server with its data in memory.
    pub async fn well(product: Product) -> Self {
        let mut server = Self::start(product, &Options::default()).await;
        server.initialise().await;
        server.unseal().await;
        server
    }

    /// A server that only runs.
    pub async fn start(product: Product, options: &Options<'_>) -> Self {
        for _ in 0..5 {
            if let Some(server) = Self::try_start(product, options).await {
                return server;
            }
        }
        panic!("{} did not start", product.name());
    }

    /// `None` when the process ended: another one may have taken the port.
    async fn try_start(product: Product, options: &Options<'_>) -> Option<Self> {
        // Raft syncs each entry, and a busy disk would take too long.
        let memory = std::path::Path::new("/dev/shm");
        let directory =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let free_port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (port, cluster_port) = (free_port(), free_port());
        let path = |name: &str| directory.path().join(name).display().to_string();
        let (tls, scheme, host) = match options.pki {
            Some(pki) => (
                format!(
                    "tls_cert_file = {:?}\n tls_key_file = {:?}\n tls_client_ca_file = {:?}",
                    pki.server_cert, pki.server_key, pki.ca
                ),
                "https",
                pki.server_name().to_owned(),
            ),
            None => ("tls_disable = true".to_owned(), "http", "127.0.0.1".to_owned()),
        };
        let mut config = match options.node {
            Some(node) => {
                fs::create_dir(path("data")).unwrap();
                let join = options
                    .joins
                    .map_or(String::new(), |leader| format!("retry_join {{ leader_api_addr = {leader:?} }}"));
                format!(
                    "storage \"raft\" {{ path = {:?}\n node_id = {node:?}\n performance_multiplier = 1\n {join} }}\n\
                     cluster_addr = \"http://127.0.0.1:{cluster_port}\"\n",
                    path("data")
                )
            }
            None => "storage \"inmem\" {}\n".to_owned(),
        };
        // Without this it would listen for the other nodes on the next port, whoever has that.
        let cluster_address = format!("cluster_address = \"127.0.0.1:{cluster_port}\"");
        let audit_log = path("audit.log");
        write!(
            config,
            "listener \"tcp\" {{ address = \"127.0.0.1:{port}\"\n {cluster_address}\n {tls}\n {} }}\n\
             {}{}\napi_addr = \"{scheme}://127.0.0.1:{port}\"\nlog_level = \"warn\"\n",
            options.listener,
            if options.without_audit_file && product == Product::OpenBao {
                String::new()
            } else {
                product.settings(&audit_log)
            },
            options.settings,
        )
        .unwrap();
        fs::write(path("config.hcl"), config).unwrap();
        let tls = options.pki.map_or_else(Pki::no_tls, Pki::client_config);
        let mut http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(PATIENCE)
            .tls_backend_preconfigured(tls);
        if host.parse::<std::net::IpAddr>().is_err() {
            http = http.resolve(&host, std::net::SocketAddr::from(([127, 0, 0, 1], port)));
        }
        let child = spawn(product, &directory);
        let mut server = Self {
            product,
            child,
            base: format!("{scheme}://{host}:{port}"),
            directory,
            root: String::new(),
            unseal_key: String::new(),
            http: http.build().unwrap(),
        };
        server.wait_up().await?;
        Some(server)
    }

    /// Waits until it answers; `None` when it ended instead.
    async fn wait_up(&mut self) -> Option<()> {
        loop {
            if self.child.try_wait().unwrap().is_some() {
                eprintln!("{}", fs::read_to_string(self.file("log")).unwrap());
                return None;
            }
            if self.try_send(&Call::get("sys/seal-status")).await.is_ok() {
                return Some(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Kills it, and starts it again on the same data. It is sealed then.
    pub async fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.product, &self.directory);
        self.wait_up().await.expect("the server starts again");
    }

    pub async fn initialise(&mut self) {
        let init = self.put("sys/init", json!({ "secret_shares": 1, "secret_threshold": 1 })).await;
        self.root = init["root_token"].as_str().unwrap().to_owned();
        self.unseal_key = init["keys"][0].as_str().unwrap().to_owned();
    }

    /// Unseals it, and waits until it is active or a standby.
    pub async fn unseal(&self) {
        eventually("unsealed", async || {
            let answer = self.send(&Call::post("sys/unseal", json!({ "key": self.unseal_key }))).await;
            let health = self.send(&Call::get("sys/health?standbyok=true")).await;
            if health.status == 200 { Ok(()) } else { Err(format!("{} {}", answer.body, health.body)) }
        })
        .await;
    }

    /// A node that joins the cluster of `leader`, and is a voter of it.
    pub async fn join(leader: &Self, node: &str) -> Self {
        let options = Options { node: Some(node), joins: Some(&leader.base), ..Options::default() };
        let mut server = Self::start(leader.product, &options).await;
        (server.root, server.unseal_key) = (leader.root.clone(), leader.unseal_key.clone());
        eventually("joined", async || {
            let state = server.send(&Call::get("sys/seal-status")).await.json();
            if state["initialized"] == true { Ok(()) } else { Err(state.to_string()) }
        })
        .await;
        server.unseal().await;
        server
    }

    /// Sends exactly this.
    pub async fn send(&self, call: &Call) -> RawAnswer {
        self.try_send(call).await.unwrap()
    }

    pub async fn try_send(&self, call: &Call) -> Result<RawAnswer, reqwest::Error> {
        let mut request = self.http.request(call.method.clone(), format!("{}{}", self.base, call.url()));
        // As the agent does (src/vault/transport.rs).
        request = request.header("x-vault-request", "true");
        if let Some(token) = &call.token {
            request = request.header("x-vault-token", token);
        }
        if !call.namespace.is_empty() {
            request = request.header("x-vault-namespace", &call.namespace);
        }
        for (name, value) in &call.headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = &call.body {
            request = request.header("content-type", "application/json").body(body.clone());
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let headers = response.headers().iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
        let headers = headers.collect();
        Ok(RawAnswer { status, headers, body: response.text().await? })
    }

    /// An administrator's request, which must succeed.
    pub async fn put(&self, path: &str, body: Value) -> Value {
        self.put_in("", path, body).await
    }

    /// The same in a namespace.
    pub async fn put_in(&self, namespace: &str, path: &str, body: Value) -> Value {
        let call = Call::post(path, body).token(&self.root).namespace(namespace);
        let answer = self.send(&call).await;
        assert!(answer.status < 300, "POST {path}: {} {}", answer.status, answer.body);
        answer.json()
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.send(&Call::get(path).token(&self.root)).await;
        assert!(answer.status < 300, "GET {path}: {} {}", answer.status, answer.body);
        answer.json()
    }

    pub async fn delete(&self, path: &str) {
        let answer = self.send(&Call::new(Method::DELETE, path).token(&self.root)).await;
        assert!(answer.status < 300, "DELETE {path}: {} {}", answer.status, answer.body);
    }

    pub async fn policy(&self, name: &str, text: &str) {
        self.put(&format!("sys/policies/acl/{name}"), json!({ "policy": text })).await;
    }

    /// A token; `fields` are those of `auth/token/create`.
    pub async fn token(&self, fields: Value) -> String {
        let answer = self.put("auth/token/create", fields).await;
        answer["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    /// The same with requests over this client.
    pub fn with_http(self, http: reqwest::Client) -> Self {
        let mut server = self;
        server.http = http;
        server
    }

    /// The same with requests of this scheme.
    pub fn with_scheme(self, scheme: &str) -> Self {
        let mut server = self;
        let rest = server.base.split_once(':').unwrap().1;
        server.base = format!("{scheme}:{rest}");
        server
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn spawn(product: Product, directory: &TempDir) -> Child {
    let log = fs::File::create(directory.path().join("log")).unwrap();
    Command::new(product.program())
        .arg("server")
        .arg("-config")
        .arg(directory.path().join("config.hcl"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
