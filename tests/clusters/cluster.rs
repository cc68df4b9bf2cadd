//! A cluster of three servers with raft storage: its start, its leader, and what an operator does to its members.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::network::{MEMBERS, Network};
use crate::support::eventually;
use crate::support::launch::Launch;
use crate::support::pki::Pki;
use crate::support::product::Product;
use crate::support::tools;
use crate::support::vault::{KEY, Vault};

/// The port of the API at each address.
pub const PORT: u16 = 8200;
/// How long a request waits that asks who leads. A member that is cut off never answers.
pub const ASKED: Duration = Duration::from_millis(500);

/// Whether the clusters run the earlier version of the product: `KMS_CLUSTERS_VERSION` is `previous`.
pub fn runs_previous() -> bool {
    match std::env::var("KMS_CLUSTERS_VERSION").as_deref() {
        Err(_) | Ok("current") => false,
        Ok("previous") => true,
        Ok(other) => panic!("KMS_CLUSTERS_VERSION is current or previous, not {other:?}"),
    }
}

/// The program of an earlier version, with which an upgrade begins.
pub fn previous(product: Product) -> PathBuf {
    let name = match product {
        Product::OpenBao => "bao-previous",
        Product::Vault => "vault-previous",
    };
    tools::find(name).unwrap_or_else(|| {
        panic!(
            "an earlier version of {} is missing: put its program on PATH as {name}; \
             for OpenBao tests/clusters/run gets it",
            product.name()
        )
    })
}

/// A running cluster. The members are counted from 0.
pub struct Cluster {
    pub members: Vec<Vault>,
    pub network: Network,
    pub pki: Pki,
    product: Product,
    /// More lines of each member's configuration.
    settings: &'static str,
    /// The audit log of all members: their configurations should not differ.
    audit: TempDir,
}

impl Cluster {
    /// Three members of the chosen product, with Transit, the usual key, and AppRole.
    pub async fn start() -> Self {
        Self::start_with_settings("").await
    }

    /// The same with more lines in each member's configuration.
    pub async fn start_with_settings(settings: &'static str) -> Self {
        let product = Product::chosen();
        let program = if runs_previous() { previous(product) } else { product.program() };
        Self::start_with(product, &program, settings).await
    }

    /// The same with another version of the product.
    pub async fn start_with(product: Product, program: &Path, settings: &'static str) -> Self {
        let network = Network::new();
        let mut names: Vec<_> = (0..MEMBERS).map(|member| network.address(member)).collect();
        names.push(network.outside());
        let pki = Pki::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let audit = tempfile::tempdir().unwrap();
        let mut cluster = Self { members: Vec::new(), network, pki, product, settings, audit };
        for member in 0..MEMBERS {
            let launched = cluster.launch(member, program).await;
            cluster.members.push(launched);
        }
        let [first, second, third] = cluster.members.as_mut_slice() else { unreachable!() };
        first.initialise().await;
        // A new member may vote after this time; the default is 10 s.
        let options = json!({ "server_stabilization_time": "1s" });
        first.post("sys/storage/raft/autopilot/configuration", options).await;
        tokio::join!(second.unseal_as_member_of(first), third.unseal_as_member_of(first));
        cluster.settled().await;
        cluster.members[0].add_key_and_role().await;
        cluster
    }

    async fn launch(&self, member: usize, program: &Path) -> Vault {
        // In memory: raft syncs each entry, and a busy disk takes longer than an election.
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        fs::create_dir(&data).unwrap();
        let address = |member| self.network.address(member);
        let mut join = String::new();
        for other in (0..MEMBERS).filter(|other| *other != member) {
            join += &format!(
                "retry_join {{ leader_api_addr = \"https://{}:{PORT}\"\n leader_ca_cert_file = {:?} }}\n",
                address(other),
                self.pki.ca
            );
        }
        // The multiplier 1 is what both products recommend for production: elections take seconds. Autopilot decides
        // every 10 s who votes, by default.
        let storage = format!(
            "storage \"raft\" {{ path = {data:?}\n node_id = {:?}\n performance_multiplier = 1\n \
             autopilot_update_interval = \"500ms\"\n autopilot_reconcile_interval = \"1s\"\n {join} }}\n\
             cluster_addr = \"https://{}:8201\"\n{}",
            id(member),
            address(member),
            self.settings,
        );
        let launch = Launch {
            product: self.product,
            program: program.to_path_buf(),
            network: Some(self.network.namespace(member)),
            pki: Some(&self.pki),
            host: address(member),
            port: PORT,
            storage,
            audit_log: self.audit.path().join("audit.log"),
            directory,
        };
        Vault::launch(launch).await.unwrap_or_else(|| panic!("{} ended at its start", self.product.name()))
    }

    /// The addresses of all members.
    pub fn addresses(&self) -> Vec<String> {
        self.members.iter().map(|member| member.address.clone()).collect()
    }

    /// An agent's configuration with these addresses.
    pub fn config(&self, addresses: &[impl std::fmt::Debug]) -> String {
        let tables = self.members[0].key_and_auth("vault");
        format!("[vault]\naddresses = {addresses:?}\nca_file = {:?}\n{tables}", self.pki.ca)
    }

    /// Which member says that it leads, and encrypts; among these.
    async fn leading(&self, among: &[usize]) -> Result<usize, String> {
        let mut seen = String::new();
        for &number in among {
            let member = &self.members[number];
            let health = member.try_request(Method::GET, "sys/health", Value::Null, ASKED).await;
            if !matches!(health, Ok((200, _))) {
                seen += &format!("{}: {health:?} ", id(number));
                continue;
            }
            let path = format!("transit/encrypt/{KEY}");
            let body = json!({ "plaintext": "" });
            // A new cluster has no key yet, and a leader at work answers that.
            match member.try_request(Method::POST, &path, body, ASKED).await {
                Ok((200 | 404, _)) => return Ok(number),
                other => seen += &format!("{}: {other:?} ", id(number)),
            }
        }
        Err(seen)
    }

    /// The leader.
    pub async fn leader(&self) -> usize {
        eventually("a leader", async || self.leading(&[0, 1, 2]).await).await
    }

    /// Waits until one of these leads and serves; which, and when it did so.
    pub async fn new_leader(&self, among: &[usize]) -> (usize, Instant) {
        let leader = eventually("a new leader", async || self.leading(among).await).await;
        (leader, Instant::now())
    }

    /// Waits until all three members vote, and the leader finds them healthy.
    pub async fn settled(&self) {
        eventually("three healthy members", async || {
            let leader = &self.members[self.leading(&[0, 1, 2]).await?];
            let path = "sys/storage/raft/autopilot/state";
            let (status, state) = leader.try_request(Method::GET, path, Value::Null, ASKED * 4).await?;
            let state = &state["data"];
            let voters = state["voters"].as_array().map_or(0, Vec::len);
            let settled = status == 200 && state["healthy"] == true && voters == MEMBERS;
            if settled { Ok(()) } else { Err(format!("{status} {state}")) }
        })
        .await;
    }

    /// Starts a member again that has ended, and unseals it.
    pub async fn restart(&mut self, member: usize) {
        self.members[member].start_again().await;
        self.members[member].unseal_as_member().await;
    }

    /// Starts a removed member without its data: it joins as a new one.
    pub async fn join_again(&mut self, member: usize) {
        self.members[member].kill();
        let data = self.members[member].file("data");
        fs::remove_dir_all(&data).unwrap();
        fs::create_dir(&data).unwrap();
        self.restart(member).await;
    }

    /// Asks the leader to give its role up.
    pub async fn step_down(&self, leader: usize) {
        self.members[leader].request(Method::PUT, "sys/step-down", Value::Null, "").await;
    }

    /// Removes a member from the cluster, which it is to leave for good.
    pub async fn remove(&self, member: usize, leader: usize) {
        self.members[leader].post("sys/storage/raft/remove-peer", json!({ "server_id": id(member) })).await;
    }

    /// All but this one.
    pub fn others(member: usize) -> Vec<usize> {
        (0..MEMBERS).filter(|other| *other != member).collect()
    }
}

/// The name of a member in the cluster.
fn id(member: usize) -> String {
    format!("member{}", member + 1)
}
