//! What systemd is told and passes on, with a receiver of notifications that a test reads. The real
//! systemd has its turn where units are installed.

use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::agent::{Agent, QUICK};
use crate::support::bao::Bao;
use crate::support::eventually;

/// A place for notifications.
struct Notified {
    socket: UnixDatagram,
    directory: tempfile::TempDir,
}

impl Notified {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, directory }
    }

    fn path(&self) -> String {
        self.directory.path().join("notify").display().to_string()
    }

    /// The next message that holds `words`; others are passed over.
    async fn next(&self, words: &str) -> String {
        eventually(&format!("a notification with {words:?}"), async || {
            let mut buffer = [0; 4096];
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    if text.contains(words) { Ok(text) } else { Err(text) }
                }
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    fn drain(&self) {
        let mut buffer = [0; 4096];
        while self.socket.recv(&mut buffer).is_ok() {}
    }
}

#[tokio::test]
async fn readiness_status_watchdog_and_stop_are_told() {
    let mut bao = Bao::persistent().await;
    let notified = Notified::new();
    let path = notified.path();
    let variables = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "1000000")];
    let mut agent = Agent::start_in(tempfile::tempdir().unwrap(), &(bao.vault_config() + QUICK), &variables);
    let ready = notified.next("READY=1").await;
    assert!(ready.contains("STATUS=ready: transit/keys/kms-key version 1"), "{ready}");
    notified.next("WATCHDOG=1").await;
    bao.kill();
    let status = notified.next("STATUS=degraded").await;
    assert!(status.contains("Status stays ok until") && status.contains("remedy"), "{status}");
    // The watchdog is fed whatever Vault does.
    notified.drain();
    notified.next("WATCHDOG=1").await;
    bao.restart().await;
    notified.next("STATUS=ready").await;
    // A process that does not run does not feed it.
    agent.signal(Signal::SIGSTOP);
    tokio::time::sleep(Duration::from_millis(100)).await;
    notified.drain();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let mut buffer = [0; 64];
    assert!(notified.socket.recv(&mut buffer).is_err());
    agent.signal(Signal::SIGCONT);
    notified.next("WATCHDOG=1").await;
    agent.signal(Signal::SIGTERM);
    let stopping = notified.next("STOPPING=1").await;
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC=10000000"), "{stopping}");
    assert!(agent.ended().await.success());
}

#[tokio::test]
async fn readiness_does_not_wait_for_vault_for_ever() {
    let config = "[vault]\naddresses = [\"http://127.0.0.1:9\"]\n[vault.transit]\nkey = \"k\"\n[vault.auth]\nmethod = \"token\"\ntoken_file = \"/nonexistent\"\n[health]\nready_timeout = \"300ms\"\n";
    let notified = Notified::new();
    let path = notified.path();
    let _agent = Agent::start_in(tempfile::tempdir().unwrap(), config, &[("NOTIFY_SOCKET", path.as_str())]);
    let ready = notified.next("READY=1").await;
    assert!(ready.contains("STATUS=starting") && ready.contains("/nonexistent"), "{ready}");
}

#[tokio::test]
async fn a_socket_that_systemd_passes_is_served_and_left_alone() {
    let bao = Bao::start().await;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("kms.sock");
    // Blocking, as systemd passes it.
    let listener = UnixListener::bind(&socket).unwrap();
    let raw = listener.as_raw_fd();
    let agent = Agent::start_with(directory, &(bao.vault_config() + QUICK), |command| {
        // What systemd does between fork and exec: the descriptor gets the number 3, and the variables
        // name the process's own id.
        let script = format!(
            "import os, sys\nos.dup2({raw}, 3)\nos.environ.update(LISTEN_FDS='1', LISTEN_FDNAMES='kms', LISTEN_PID=str(os.getpid()))\nos.execv(sys.argv[1], sys.argv[1:])"
        );
        let mut shim = std::process::Command::new("python3");
        shim.arg("-c").arg(script).arg(command.get_program()).args(command.get_args());
        nix::fcntl::fcntl(&listener, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
        shim
    });
    agent.wait_for_phase("ready").await;
    agent.wait_for_log("systemd passed the socket").await;
    agent.kms().await.round_trip().await;
    // While nobody serves, connections wait in the listener that systemd holds: none is refused.
    let directory = agent.kill();
    let waiting = UnixStream::connect(&socket).unwrap();
    assert!(socket.exists(), "the socket is systemd's to remove");
    drop((waiting, directory));
}

#[tokio::test]
async fn a_deleted_socket_or_a_replaced_directory_is_mended_within_a_second() {
    let bao = Bao::start().await;
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("kmsplugin");
    std::fs::create_dir(&home).unwrap();
    let socket = home.join("kms.sock");
    let path = socket.display().to_string();
    let own = [("KMS_PLUGIN_SERVER_SOCKET", path.as_str())];
    let agent = Agent::start_in(tempfile::tempdir().unwrap(), &(bao.vault_config() + QUICK), &own);
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
    // Half a second between two looks; the rest is a busy machine's.
    for took in [deleted, replaced] {
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
    agent.wait_for_log("it is bound again").await;
    // A directory that is missing is waited for, and told once.
    std::fs::remove_dir_all(&home).unwrap();
    agent.wait_for_log("cannot be bound again").await;
    std::fs::create_dir(&home).unwrap();
    serves(&socket).await;
    assert_eq!(agent.log().matches("cannot be bound again").count(), 1);
}
