//! A control plane node: its disk and `/run`, its agent, its API server, and what systemd keeps between two runs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::agent::Agent;
use super::api_server::ApiServer;
use super::model::link::{Link, at_replica};
use super::model::service::{KEY, OLD_KEY, REPLICAS, now};
use super::world::World;
use crate::config::Settings;
use crate::config::endpoint::Endpoint;
use crate::config::local_kek::Policy;
use crate::config::secret::{RoleId, SecretSource};
use crate::config::settings::{Grace, Health, KeyServiceSettings};
use crate::config::vault::{Auth, Method, Vault};
use crate::kms::{KmsService, View};
use crate::vault::Transport;

/// How the agents of one simulation are configured. The intervals are the defaults.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub nodes: usize,
    /// With local KEKs: `local_kek.max_offline`.
    pub max_offline: Option<Duration>,
    pub grace: Duration,
    pub sealed_is_denied: bool,
    /// With a second key that is only for decryption.
    pub decrypt_only: bool,
    /// Whether a monitor asks `/healthz` of each agent each second.
    pub asked: bool,
    /// The addresses that the agents configure.
    pub addresses: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            nodes: 1,
            max_offline: None,
            grace: Duration::from_secs(3600),
            sealed_is_denied: false,
            decrypt_only: false,
            asked: false,
            addresses: REPLICAS,
        }
    }
}

/// The agent that serves on a node's socket, with the number of its run.
pub(super) type Socket = Arc<Mutex<Option<Serving>>>;

#[derive(Clone)]
pub(super) struct Serving {
    pub run: u64,
    pub service: Arc<KmsService>,
    pub views: watch::Receiver<View>,
}

pub(super) struct Node {
    pub number: usize,
    pub agent: Option<Agent>,
    pub settings: Settings,
    /// Whether a monitor asks `/healthz` each second.
    pub asked: bool,
    /// The content of its secret-id file.
    pub secret_id: String,
    world: Arc<World>,
    directory: TempDir,
    transport: Arc<dyn Transport>,
    socket: Socket,
    kept: Vec<(String, OwnedFd)>,
    api_server: JoinSet<()>,
    read: Read,
    runs: u64,
    /// How many budgets its agents have had: one for each start and each reload.
    pub budgets: u64,
}

impl Node {
    pub(super) fn stop_api_server(&mut self) {
        self.api_server.abort_all();
    }

    pub(super) fn new(number: usize, setup: &Setup, world: &Arc<World>) -> Self {
        let memory = std::path::Path::new("/dev/shm");
        let directory = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let directory = directory.unwrap();
        let settings = settings(setup, &directory);
        let mut node = Self {
            number,
            agent: None,
            settings,
            asked: setup.asked,
            secret_id: String::new(),
            world: world.clone(),
            directory,
            transport: Arc::new(Link { world: world.clone(), node: number }),
            socket: Arc::default(),
            kept: Vec::new(),
            api_server: JoinSet::new(),
            read: Arc::default(),
            runs: 0,
            budgets: 0,
        };
        node.write_secret_id("secret-0");
        node
    }

    /// Replaces the secret-id file, as an administrator does.
    pub(super) fn write_secret_id(&mut self, secret_id: &str) {
        let path = self.directory.path().join("secret-id");
        std::fs::write(&path, secret_id).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        // The real clock of the file system does not follow the simulation: each change gets another time.
        let past = std::time::UNIX_EPOCH + crate::clock::simulated::EPOCH + super::model::service::now();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(past).unwrap();
        self.secret_id = secret_id.to_owned();
    }

    pub(super) fn start_agent(&mut self) {
        if self.agent.is_some() {
            return;
        }
        self.runs += 1;
        self.budgets += 1;
        *self.world.starts.lock().unwrap() += 1;
        let agent = Agent::start(&self.settings, std::mem::take(&mut self.kept), &self.transport);
        let serving = Serving { run: self.runs, service: agent.service.clone(), views: agent.views() };
        *self.socket.lock().unwrap() = Some(serving);
        self.agent = Some(agent);
        self.world.log.add(format_args!("node {}: the agent starts", self.number));
    }

    /// Kills the agent. Its files and systemd's descriptors stay.
    pub(super) async fn kill_agent(&mut self) {
        let Some(agent) = self.agent.take() else { return };
        *self.socket.lock().unwrap() = None;
        self.kept = agent.kill().await;
        self.world.service.lock().unwrap().forget_tokens(self.number);
        self.world.log.add(format_args!("node {}: the agent is killed", self.number));
    }

    /// Cuts the power: `/run` and systemd's descriptors are gone, the disk stays.
    pub(super) async fn power_off(&mut self) {
        self.api_server.shutdown().await;
        self.kill_agent().await;
        self.kept.clear();
        let _gone = std::fs::remove_file(self.settings.server.runtime_dir.join("identity.json"));
        self.world.log.add(format_args!("node {}: off", self.number));
    }

    pub(super) fn reload(&mut self) {
        if let Some(agent) = &mut self.agent {
            self.world.log.add(format_args!("node {}: reload", self.number));
            self.budgets += 1;
            *self.world.starts.lock().unwrap() += 1;
            agent.reload(&self.settings, &self.transport);
        }
    }

    /// Whether the model of the API server has met something that it does not know.
    pub(super) fn api_server_panicked(&mut self) -> bool {
        self.api_server.try_join_next().is_some_and(|ended| ended.is_err_and(|error| error.is_panic()))
    }

    /// Starts the API server, unless it runs.
    pub(super) async fn ensure_api_server(&mut self) {
        if self.api_server.is_empty() {
            self.start_api_server().await;
        }
    }

    /// Lets the API server read every seed again.
    pub(super) fn read_again(&self) {
        self.read.lock().unwrap().clear();
        self.world.stored.send_modify(|_| {});
    }

    /// A seed of the key as it should be that the API server could not read, stored longer than `age` ago.
    pub(super) fn unread(&self, age: Duration) -> Option<usize> {
        let (storage, read) = (self.world.storage.lock().unwrap(), self.read.lock().unwrap());
        let mut unread = storage
            .iter()
            .filter(|stored| !read.contains(&stored.number) && now().saturating_sub(stored.at) > age);
        let unread = unread.find(|stored| self.world.oracle.is_readable(&self.world, stored));
        unread.map(|stored| stored.number)
    }

    /// Starts the API server, or starts it again: it forgets every seed.
    pub(super) async fn start_api_server(&mut self) {
        self.api_server.shutdown().await;
        self.world.log.add(format_args!("node {}: the API server starts", self.number));
        self.read = Arc::default();
        let server = ApiServer::new(self.number, self.world.clone(), self.socket.clone(), self.read.clone());
        self.api_server.spawn(server.run());
    }
}

/// The seeds that an API server has read since its start.
pub(super) type Read = Arc<Mutex<BTreeSet<usize>>>;

pub(super) fn settings(setup: &Setup, directory: &TempDir) -> Settings {
    let admin = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut settings = Settings::development(directory.path(), "unused".into(), admin);
    let run = directory.path().join("run");
    std::fs::create_dir(&run).unwrap();
    settings.server.runtime_dir = run;
    settings.server.call_timeout = Duration::from_secs(10);
    let addresses = (0..setup.addresses).map(|replica| Endpoint::parse(&at_replica(replica), true).unwrap());
    let method = Method::AppRole {
        role_id: RoleId::Literal("role".into()),
        secret_id: Some(SecretSource::file(&directory.path().join("secret-id"), false)),
        wrapped: false,
    };
    let mut vault = Vault::example(addresses, Auth { mount: "approle".into(), method });
    vault.transit.key = KEY.into();
    vault.transit.accept_foreign_ciphertext = true;
    vault.shares_login = true;
    if setup.decrypt_only {
        let mut old = vault.clone();
        old.transit.key = OLD_KEY.into();
        settings.decrypt_only = vec![("old".into(), KeyServiceSettings::Vault(Box::new(old)))];
    }
    settings.primary = KeyServiceSettings::Vault(Box::new(vault));
    settings.local_kek = setup.max_offline.map(|max_offline| Policy {
        max_offline,
        max_age: Duration::from_secs(86_400),
        max_uses: 1_000_000,
    });
    settings.health = Health {
        outage_grace: Grace::For(setup.max_offline.unwrap_or(setup.grace)),
        ready_timeout: Duration::from_secs(10),
        key_check_interval: Duration::from_secs(60),
        probe_interval: Duration::from_secs(90),
        sealed_is_denied: setup.sealed_is_denied,
    };
    settings
}
