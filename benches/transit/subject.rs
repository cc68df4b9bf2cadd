//! The plugins that are compared: the agent in its two modes, and any other plugin.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::raw::Transit;
use crate::support::agent::{Agent, LOCAL_KEK, QUIET};
use crate::support::kms::Kms;
use crate::support::memory::mebibytes;
use crate::support::pki::Pki;
use crate::support::vault::{Vault, write_secret};

/// How long a plugin may take until its socket answers.
const START: Duration = Duration::from_secs(60);

/// What can be started.
#[derive(Clone)]
pub enum Subject {
    Direct,
    LocalKek,
    /// Another plugin: its name, and a program that becomes it (`KMS_BENCH_OTHERS`).
    Other(String, PathBuf),
}

/// A running plugin.
pub struct Running {
    plugin: Plugin,
    socket: PathBuf,
}

enum Plugin {
    Ours(Agent),
    Other(Child, #[expect(dead_code, reason = "removed at the end")] TempDir),
}

impl Subject {
    /// Ours, and those that the environment names.
    pub fn all() -> Vec<Self> {
        let others = std::env::var("KMS_BENCH_OTHERS").unwrap_or_default();
        let others = others.split(',').filter(|one| !one.is_empty()).map(|one| {
            let (name, program) = one.split_once('=').expect("KMS_BENCH_OTHERS is NAME=PROGRAM,NAME=PROGRAM");
            Self::Other(name.to_owned(), program.into())
        });
        others.chain([Self::Direct, Self::LocalKek]).collect()
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Direct => "kms-plugin",
            Self::LocalKek => "kms-plugin, local KEK",
            Self::Other(name, _) => name,
        }
    }

    /// Returns when the socket answers a good Status.
    pub async fn start(&self, vault: &Vault, pki: &Pki, transit: &Transit) -> Running {
        let trusted = format!("[vault]\nca_file = {:?}\n", pki.ca);
        let config = vault.vault_config().replacen("[vault]\n", &trusted, 1) + QUIET;
        let running = match self {
            Self::Direct => Running::ours(Agent::start(&config)),
            Self::LocalKek => Running::ours(Agent::start(&(config + LOCAL_KEK))),
            Self::Other(_, program) => Running::other(program, vault, pki, transit),
        };
        let started = Instant::now();
        while !running.is_well().await {
            assert!(started.elapsed() < START, "{} has no good Status", self.name());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        running
    }
}

impl Running {
    fn ours(agent: Agent) -> Self {
        let socket = agent.socket();
        Self { plugin: Plugin::Ours(agent), socket }
    }

    fn other(program: &Path, vault: &Vault, pki: &Pki, transit: &Transit) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("kms.sock");
        write_secret(&directory.path().join("token"), transit.token());
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let child = Command::new(program)
            .env("BENCH_SOCKET", &socket)
            .env("BENCH_DIR", directory.path())
            .env("BENCH_ROLE_ID_FILE", vault.file("role-id"))
            .env("BENCH_SECRET_ID_FILE", vault.file("secret-id"))
            .env("VAULT_ADDR", &vault.address)
            .env("VAULT_CACERT", &pki.ca)
            .env("VAULT_TOKEN", transit.token())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { plugin: Plugin::Other(child, directory), socket }
    }

    async fn is_well(&self) -> bool {
        self.socket.exists()
            && match Kms::try_connect(&self.socket).await {
                Ok(mut kms) => kms.status().await.is_ok_and(|status| status.healthz == "ok"),
                Err(_) => false,
            }
    }

    /// A connection of its own.
    pub async fn connect(&self) -> Kms {
        Kms::connect(&self.socket).await
    }

    fn pid(&self) -> u32 {
        match &self.plugin {
            Plugin::Ours(agent) => agent.pid(),
            Plugin::Other(child, _) => child.id(),
        }
    }

    /// The size of its executable, in MiB.
    pub fn binary(&self) -> f64 {
        let size = std::fs::metadata(format!("/proc/{}/exe", self.pid())).unwrap().len();
        size as f64 / 1_048_576.0
    }

    /// A figure of its memory, in MiB.
    pub fn memory(&self, figure: &str) -> f64 {
        mebibytes(self.pid(), figure).unwrap()
    }

    /// Seconds of processor time until now.
    pub fn processor(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name is in brackets and may hold spaces.
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        // utime and stime, in hundredths of a second on Linux.
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Plugin::Other(child, _) = &mut self.plugin {
            let _ended = child.kill().and_then(|()| child.wait());
        }
    }
}
