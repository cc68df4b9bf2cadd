//! One agent of the soak: its process, and what it is started with again.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::task::JoinHandle;

use super::traffic::Traffic;
use crate::support::agent::Agent;
use crate::support::eventually;
use crate::support::kms::Kms;
use crate::support::memory::{RESIDENT, mebibytes};
use crate::support::store::Store;
use crate::support::tools;

/// An agent under systemd's socket and descriptor store.
pub struct Member {
    pub number: usize,
    pub name: &'static str,
    pub has_local_keks: bool,
    pub is_restarted: bool,
    pub traffic: Arc<Traffic>,
    store: Store,
    config: String,
    /// What a reload changes.
    probe_interval: &'static str,
    /// The executable that runs.
    program: PathBuf,
    /// None only while it is restarted.
    agent: Option<Agent>,
    pid: Arc<AtomicU32>,
    socket: PathBuf,
}

/// What the sampler needs of it.
pub struct View {
    pid: Arc<AtomicU32>,
    pub traffic: Arc<Traffic>,
}

impl View {
    /// Resident memory in MiB; none while there is no process.
    pub fn memory(&self) -> Option<f64> {
        mebibytes(self.pid.load(Ordering::Relaxed), RESIDENT)
    }
}

impl Member {
    /// Starts it, and waits until it is ready.
    pub async fn start(
        number: usize,
        name: &'static str,
        config: String,
        has_local_keks: bool,
        is_restarted: bool,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("kms.sock");
        let store = Store::new(UnixListener::bind(&socket).unwrap());
        let mut member = Self {
            number,
            name,
            has_local_keks,
            is_restarted,
            traffic: Arc::default(),
            store,
            config,
            probe_interval: "15s",
            program: tools::plugin(),
            agent: None,
            pid: Arc::default(),
            socket,
        };
        member.start_in(directory).await;
        member
    }

    fn text(&self) -> String {
        // Shorter than the defaults, so that each rotation is seen within its cycle.
        let intervals = format!("key_check_interval = \"10s\"\nprobe_interval = {:?}\n", self.probe_interval);
        format!("{}[health]\n{intervals}", self.config)
    }

    async fn start_in(&mut self, directory: tempfile::TempDir) {
        let agent = self.store.start_program(directory, &self.text(), &self.program);
        self.pid.store(agent.pid(), Ordering::Relaxed);
        self.agent = Some(agent);
        self.ready().await;
    }

    fn agent(&self) -> &Agent {
        self.agent.as_ref().unwrap()
    }

    /// Waits until it is.
    pub async fn ready(&self) {
        self.agent().wait_for_phase("ready").await;
        if self.has_local_keks {
            let line = "local KEKs";
            eventually(line, async || {
                if self.store.names().is_empty() { Err("none is kept".to_owned()) } else { Ok(()) }
            })
            .await;
        }
    }

    pub async fn kms(&self) -> Kms {
        Kms::connect(&self.socket).await
    }

    pub fn view(&self) -> View {
        View { pid: self.pid.clone(), traffic: self.traffic.clone() }
    }

    /// Begins its traffic, which ends with [`Traffic::end`].
    pub fn begin(&self) -> JoinHandle<()> {
        let (traffic, socket) = (self.traffic.clone(), self.socket.clone());
        tokio::spawn(async move { traffic.run(&socket).await })
    }

    /// Another configuration, which must be in use at the end.
    pub async fn reload(&mut self, probe_interval: &'static str) {
        self.probe_interval = probe_interval;
        self.agent().write_config(&self.text());
        let (code, said) = self.agent().command("reload");
        assert_eq!(code, 0, "{}: {said}", self.name);
    }

    pub async fn kill_and_start(&mut self) {
        let directory = self.agent.take().unwrap().kill();
        self.start_in(directory).await;
    }

    /// As `systemctl restart`. With `other`, as a package of another version does it: that one is started where this one
    /// ran, and this one where that one did.
    pub async fn stop_and_start(&mut self, other: Option<&Path>) {
        if let Some(other) = other {
            self.program = if self.program == other { tools::plugin() } else { other.to_owned() };
        }
        let mut agent = self.agent.take().unwrap();
        let ended = agent.stop().await;
        assert!(ended.success(), "{}: {ended}", self.name);
        let directory = std::mem::replace(&mut agent.directory, tempfile::tempdir().unwrap());
        self.start_in(directory).await;
    }
}
