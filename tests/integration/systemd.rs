//! Notifications to systemd, and what systemd passes to the agent. A test stands in for systemd here; `tests/system`
//! runs a real one.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kms_plugin::proto::EncryptResponse;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::Status;

use crate::local_kek::written;
use crate::support::agent::{Agent, LOCAL_KEK, QUICK, passing};
use crate::support::kms::SEED;
use crate::support::load::Load;
use crate::support::notified::Notified;
use crate::support::store::Store;
use crate::support::tools;
use crate::support::vault::Vault;
use crate::support::{eventually, freeze};

#[tokio::test]
async fn systemd_is_notified_of_readiness_status_watchdog_and_stop() {
    let mut vault = Vault::persistent().await;
    let notified = Notified::new();
    let path = notified.path();
    let variables = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "1000000")];
    let mut agent =
        Agent::start_in(tempfile::tempdir().unwrap(), &(vault.vault_config() + QUICK), &variables);
    notified.all(&["READY=1", "STATUS=ready: transit/keys/kms-key version 1"]).await;
    notified.next("WATCHDOG=1").await;
    vault.kill();
    let status = notified.next("STATUS=degraded").await;
    let line = status.lines().find_map(|line| line.strip_prefix("STATUS=")).unwrap();
    assert!(line.contains("Status ok until") && line.ends_with("remedy: run kms-plugin check"), "{line}");
    assert!(line.chars().count() <= 160, "{line}");
    // The watchdog notifications do not depend on Vault.
    notified.drain();
    notified.next("WATCHDOG=1").await;
    vault.restart().await;
    notified.next("STATUS=ready").await;
    // A stopped process sends none.
    freeze(agent.pid());
    notified.drain();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert!(notified.is_quiet());
    agent.signal(Signal::SIGCONT);
    notified.next("WATCHDOG=1").await;
    agent.signal(Signal::SIGTERM);
    let stopping = notified.next("STOPPING=1").await;
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC=10000000"), "{stopping}");
    assert!(agent.ended().await.success());
}

#[tokio::test]
async fn readiness_waits_for_vault_for_a_bounded_time() {
    let config = "[vault]\naddresses = [\"http://127.0.0.1:9\"]\n[vault.transit]\nkey = \"k\"\n[vault.auth]\nmethod = \"token\"\ntoken_file = \"/nonexistent\"\n[health]\nready_timeout = \"300ms\"\n";
    let notified = Notified::new();
    let path = notified.path();
    let _agent = Agent::start_in(tempfile::tempdir().unwrap(), config, &[("NOTIFY_SOCKET", path.as_str())]);
    // The unit's own limit may be shorter than the configured wait.
    notified.next("EXTEND_TIMEOUT_USEC=30300000").await;
    let said = notified.all(&["READY=1", "STATUS=starting", "/nonexistent"]).await;
    assert!(!said.contains("STATUS=ready"), "{said}");
}

/// A socket that stays while agents come and go, as systemd's does, and the key service of those agents.
struct Passed {
    vault: Vault,
    socket: PathBuf,
    /// Blocking, as systemd passes it.
    listener: UnixListener,
}

impl Passed {
    /// The socket, and a first agent that is ready.
    async fn with_agent() -> (Self, Agent) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("kms.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let passed = Self { vault: Vault::start().await, socket, listener };
        let agent = passed.start(directory).await;
        (passed, agent)
    }

    /// An agent in the directory of the one before it; ready.
    async fn start(&self, directory: TempDir) -> Agent {
        let config = self.vault.vault_config() + QUICK;
        let agent = Agent::start_with(directory, &config, |command| passing(&self.listener, &command));
        agent.wait_for_phase("ready").await;
        agent
    }
}

#[tokio::test]
async fn a_socket_that_systemd_passes_is_served_and_left_alone() {
    let (passed, agent) = Passed::with_agent().await;
    agent.wait_for_log("systemd passed the socket").await;
    agent.kms().await.round_trip().await;
    // Without an agent, connections wait in the listener that systemd holds: none is refused.
    let directory = agent.kill();
    let waiting = UnixStream::connect(&passed.socket).unwrap();
    assert!(passed.socket.exists(), "the socket is systemd's to remove");
    drop((waiting, directory));
}

/// With the descriptors that systemd keeps, an agent with local KEKs works without Vault after a kill. After a stop
/// nothing is kept.
#[tokio::test]
async fn systemds_store_keeps_keys_over_a_kill_and_not_over_a_stop() {
    let mut vault = Vault::persistent().await;
    let config = vault.vault_config() + QUICK + LOCAL_KEK;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(UnixListener::bind(directory.path().join("kms.sock")).unwrap());
    let mut agent = store.start(directory, &config);
    agent.wait_for_phase("ready").await;
    let wrapped = written(&mut agent.kms().await).await;
    let [name] = store.names().try_into().unwrap();
    assert!(name.starts_with("kek.") && name.ends_with(".v1"), "{name}");
    vault.kill();
    agent = store.start(agent.kill(), &config);
    agent.wait_for_reason("degraded", "unreachable").await;
    assert_eq!(agent.kms().await.decrypt(&wrapped).await.unwrap(), SEED);
    written(&mut agent.kms().await).await;
    assert_eq!(store.names(), [name]);
    let directory = agent.kill();
    store.clear();
    agent = store.start(directory, &config);
    let refused = agent.kms().await.decrypt(&wrapped).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert!(refused.message().contains("remedy"), "{refused}");
    vault.restart().await;
    agent.wait_for_phase("ready").await;
    assert_eq!(agent.kms().await.decrypt(&wrapped).await.unwrap(), SEED);
}

/// kill -9 under load, while systemd holds the socket: no connection is refused, and only calls under way may fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_under_a_passed_socket_refuses_no_connection() {
    let (passed, mut agent) = Passed::with_agent().await;
    let first = agent.kms().await.round_trip().await;
    for _ in 0..3 {
        let load = Load::start(&passed.socket, &first);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let directory = agent.kill();
        // Connections wait in the listener while nobody serves.
        let waiting = UnixStream::connect(&passed.socket).unwrap();
        agent = passed.start(directory).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(waiting);
        let calls = load.stop().await;
        // Each of the four callers may lose one call under way, and one by its broken connection.
        assert!(calls.failed().len() <= 8, "{:?}", calls.failed());
    }
}

/// Graceful restarts fail no call of the API server's own client. A tonic client would not do: it does not repeat a call
/// that was not processed when the connection ended.
#[tokio::test(flavor = "multi_thread")]
async fn graceful_restarts_fail_no_call_of_the_api_servers_client() {
    let Some(client) = tools::go_client() else { return };
    let (passed, mut agent) = Passed::with_agent().await;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            tokio::process::Command::new(&client)
                .arg("-socket")
                .arg(&passed.socket)
                .args(["-mode", "rotate", "-duration", "8s", "-timeout", tools::GO_PATIENCE])
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert!(agent.stop().await.success());
        agent = passed.start(agent.kill()).await;
    }
    for client in clients {
        let output = client.wait_with_output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// An agent that was told to stop while a call waits for the frozen server.
async fn stopping() -> (Vault, Agent, JoinHandle<Result<EncryptResponse, Status>>) {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let mut kms = agent.kms().await;
    kms.round_trip().await;
    vault.freeze();
    let call = tokio::spawn(async move { kms.encrypt(&SEED).await });
    agent.wait_for_call().await;
    agent.signal(Signal::SIGTERM);
    agent.wait_for_log("waiting up to").await;
    (vault, agent, call)
}

#[tokio::test]
async fn a_stop_waits_for_calls_under_way() {
    let (vault, mut agent, call) = stopping().await;
    vault.thaw();
    assert!(call.await.unwrap().is_ok());
    assert!(agent.ended().await.success(), "{}", agent.log());
    assert!(!agent.socket().exists());
}

#[tokio::test]
async fn a_second_signal_cuts_the_drain_short() {
    let (_vault, mut agent, call) = stopping().await;
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.ended().await.code(), Some(70), "{}", agent.log());
    assert!(agent.log().contains("a second signal"));
    assert!(call.await.unwrap().is_err());
}

#[tokio::test]
async fn a_deleted_socket_or_a_replaced_directory_is_bound_again_within_a_second() {
    let vault = Vault::start().await;
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("kmsplugin");
    std::fs::create_dir(&home).unwrap();
    let socket = home.join("kms.sock");
    let path = socket.display().to_string();
    let own = [("KMS_PLUGIN_SERVER_SOCKET", path.as_str())];
    let agent = Agent::start_in(tempfile::tempdir().unwrap(), &(vault.vault_config() + QUICK), &own);
    agent.wait_for_phase("ready").await;
    let serves = async |socket: &Path| {
        let started = Instant::now();
        eventually("the socket", async || {
            UnixStream::connect(socket).map(drop).map_err(|error| error.to_string())
        })
        .await;
        crate::support::kms::Kms::connect(socket).await.round_trip().await;
        started.elapsed()
    };
    serves(&socket).await;
    std::fs::remove_file(&socket).unwrap();
    let deleted = serves(&socket).await;
    std::fs::rename(&home, directory.path().join("aside")).unwrap();
    std::fs::create_dir(&home).unwrap();
    let replaced = serves(&socket).await;
    // The promise is a second: the agent looks every half second. The rest is for a busy machine.
    for took in [deleted, replaced] {
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
    agent.wait_for_log("it is bound again").await;
    // The agent waits for a missing directory, and logs that once.
    std::fs::remove_dir_all(&home).unwrap();
    agent.wait_for_log("cannot be bound again").await;
    std::fs::create_dir(&home).unwrap();
    serves(&socket).await;
    assert_eq!(agent.log().matches("cannot be bound again").count(), 1);
}
