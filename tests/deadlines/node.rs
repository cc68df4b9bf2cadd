//! An agent as systemd runs it, and its outputs.

use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use crate::support::agent::Agent;
use crate::support::kms::{DEADLINE, Kms};
use crate::support::notified::Notified;

/// How often an output is asked for while a test waits for a change: so much later a figure may be than the change.
pub const PAUSE: Duration = Duration::from_millis(200);
/// Far longer than anything that is promised.
const PATIENCE: Duration = Duration::from_secs(240);
/// So many agents start at the same time: a burst of starts would delay what other tries measure.
static STARTS: Semaphore = Semaphore::const_new(3);

/// Asks until the answer is yes; the time since `since`.
pub async fn until(
    what: &str,
    since: Instant,
    pause: Duration,
    mut ask: impl AsyncFnMut() -> bool,
) -> Duration {
    while !ask().await {
        assert!(since.elapsed() < PATIENCE, "{what}: not in {PATIENCE:?}");
        tokio::time::sleep(pause).await;
    }
    since.elapsed()
}

/// A running agent, the messages that it sends to systemd, and an API server's connection to it.
pub struct Node {
    pub agent: Agent,
    pub notified: Notified,
    pub kms: Kms,
}

impl Node {
    /// Starts an agent, and waits for READY: also how long that took.
    pub async fn start(directory: TempDir, config: &str) -> (Self, Duration) {
        let notified = Notified::new();
        let path = notified.path();
        let started = Instant::now();
        let agent = Agent::start_in(directory, config, &[("NOTIFY_SOCKET", path.as_str())]);
        notified.next("READY=1").await;
        let took = started.elapsed();
        let kms = agent.kms().await.within(DEADLINE);
        (Self { agent, notified, kms }, took)
    }

    /// Starts an agent whose server is good, and waits until its Status is ok.
    pub async fn ready(config: &str) -> Self {
        let _turn = STARTS.acquire().await.unwrap();
        let (mut node, _) = Self::start(tempfile::tempdir().unwrap(), config).await;
        until("ready", Instant::now(), PAUSE, async || node.agent.status().unwrap()["phase"] == "ready")
            .await;
        assert!(node.is_ok().await, "{}", node.agent.log());
        node
    }

    /// Whether KMS Status is ok.
    pub async fn is_ok(&mut self) -> bool {
        self.kms.status().await.is_ok_and(|status| status.healthz == "ok")
    }

    /// What `/healthz` answers; without blocking, which [`Agent::admin`] does.
    pub async fn healthz(&self) -> u16 {
        let socket = self.agent.directory.path().join("run/admin.sock");
        let mut stream = UnixStream::connect(socket).await.unwrap();
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }
}
