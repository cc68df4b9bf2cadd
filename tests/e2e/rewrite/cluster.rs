//! A cluster that is rewritten, runs of the command, and writers that work meanwhile.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::apiserver::{ApiServer, Client, NAMESPACE};
use crate::encryption::{PROVIDER, identity, kms, of};
use crate::etcd::Etcd;
use crate::key_id_after;
use crate::support::agent::{Agent, QUICK, command};
use crate::support::vault::Vault;

/// An API server that encrypts with the plugin.
pub struct Cluster {
    pub etcd: Etcd,
    pub vault: Vault,
    pub agent: Agent,
    pub api: ApiServer,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(flags: &'static [&'static str]) -> Self {
        let (etcd, vault) = tokio::join!(Etcd::start(), Vault::start());
        let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
        let api = ApiServer::start_with(&etcd, &of(&[kms(&agent.socket()), identity()]), flags).await;
        api.wait_ready().await;
        make_namespace(&api.client, NAMESPACE).await;
        Self { etcd, vault, agent, api }
    }

    /// Rotates the key, and waits until the agent announces it: its key_id.
    pub async fn rotate(&self) -> String {
        let before = self.agent.kms().await.status().await.unwrap().key_id;
        self.vault.rotate().await;
        key_id_after(&before, &self.agent).await
    }

    /// The arguments of a run, with a state file of this cluster's own.
    pub fn arguments(&self, more: &[&str]) -> Vec<String> {
        let directory = self.agent.directory.path();
        let defaults = [
            ("--output", "json".to_owned()),
            ("--kubeconfig", self.api.kubeconfig().display().to_string()),
            ("--state", directory.join("rewrite.json").display().to_string()),
            ("--runtime-dir", directory.join("run").display().to_string()),
            ("--max-rate", "0".to_owned()),
            // Kubernetes 1.37 serves StorageVersionMigrations, and nobody is here to begin one.
            ("--method", "patch".to_owned()),
        ];
        let mut arguments = ["rewrite", "--api-server", self.api.address()].map(str::to_owned).to_vec();
        for (name, value) in defaults.into_iter().filter(|(name, _)| !more.contains(name)) {
            if name == "--state" && more.contains(&"--no-state") {
                continue;
            }
            arguments.extend([name.to_owned(), value]);
        }
        arguments.extend(more.iter().map(|one| (*one).to_owned()));
        arguments
    }

    pub fn etcd_arguments(&self) -> [&str; 2] {
        ["--endpoint", self.etcd.endpoint()]
    }

    /// A run to its end: the exit code and the report.
    pub async fn rewrite(&self, more: &[&str]) -> (i32, Value) {
        let arguments = self.arguments(more);
        let output = tokio::task::spawn_blocking(move || command().args(arguments).output().unwrap());
        let output = output.await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let report = serde_json::from_str(&text);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap(), report.unwrap_or_else(|_| json!({ "text": text, "errors": errors })))
    }

    /// A run that goes on.
    pub fn begin(&self, more: &[&str]) -> Child {
        let log = self.agent.directory.path().join("rewrite.log");
        let log = std::fs::File::create(log).unwrap();
        let mut command = command();
        command.args(self.arguments(more)).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    pub async fn all_under(&self, key_id: &str) {
        for resource in ["secrets", "configmaps"] {
            let ids = self.etcd.key_ids(&format!("{resource}/"), PROVIDER).await;
            assert_eq!(ids.keys().collect::<Vec<_>>(), [key_id], "{resource}: {ids:?}");
        }
    }
}

/// An address of this machine under which API servers can publish themselves: no loopback address.
pub fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Sends nothing: it asks for the route.
    socket.connect("192.0.2.1:9").expect("this test needs a network interface beside the loopback");
    socket.local_addr().unwrap().ip()
}

pub async fn make_namespace(client: &Client, name: &str) {
    let namespace = json!({ "metadata": { "name": name } });
    let made = client.call(Method::POST, "/api/v1/namespaces", &namespace).await.unwrap();
    assert!([201, 409].contains(&made.status), "{made:?}");
}

pub async fn fill(client: &Client, resource: &str, objects: usize) {
    client.write_new(resource, (0..objects).map(|number| format!("object-{number:06}")).collect()).await;
}

/// Writers that count in objects of their own, so many writes a second in all.
pub struct Writers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<BTreeMap<String, usize>>,
}

impl Writers {
    pub const OBJECTS: usize = 20;

    pub fn start(client: &Client, rate: usize) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let mut tasks = JoinSet::new();
        let pause =
            Duration::from_secs(1) * u32::try_from(Self::OBJECTS).unwrap() / u32::try_from(rate).unwrap();
        for number in 0..Self::OBJECTS {
            let (client, stop, name) = (client.clone(), stop.clone(), format!("counter-{number}"));
            tasks.spawn(async move {
                let (mut counted, mut due) = (0, Instant::now());
                while !stop.load(Ordering::Relaxed) {
                    due += pause;
                    tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
                    // An API server that restarts answers nothing: the same number comes again.
                    if client.write("secrets", &name, &format!("{}", counted + 1)).await.is_ok() {
                        counted += 1;
                    }
                }
                BTreeMap::from([(name, counted)])
            });
        }
        Self { stop, tasks }
    }

    /// Ends them: every counter is as its writer left it. Returns how many writes there were.
    pub async fn stop(self, client: &Client) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let mut writes = 0;
        for (name, counted) in self.tasks.join_all().await.into_iter().flatten() {
            let text = client.read("secrets", &name).await.unwrap();
            assert_eq!(text, counted.to_string(), "{name}: a write is lost");
            writes += counted;
        }
        writes
    }
}
