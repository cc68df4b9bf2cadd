//! The accept loop of the KMS server. It also keeps the socket file in its place.
//!
//! The listener belongs to this loop, not to the server: when the server is restarted, waiting connections are not
//! lost. When `accept` fails (no file descriptors left), the loop pauses and logs it; tonic would retry without a
//! pause.

use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::directory_watch::DirectoryWatch;
use super::heartbeat::IDLE_BEAT;
use super::rebind::{Place, Socket, listen};
use super::{BoundSocket, Heartbeat, SocketError};
use crate::retry::Backoff;
use crate::telemetry::metrics::Metrics;

/// Time from a change in the directory to the check of the socket: whoever replaces the directory needs several
/// steps. It also limits the checks in a busy directory to twenty a second.
const SETTLE: Duration = Duration::from_millis(50);
/// Time between two checks while the socket is missing, or while changes of its directory are not reported: a deleted
/// socket is back within a second.
const POLL: Duration = Duration::from_millis(500);
/// Time between two checks while changes are reported: for the changes that inotify misses, and for the heartbeat.
const SLOW_POLL: Duration = IDLE_BEAT;

/// Nobody takes the accepted connections: the server has ended.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server takes no connections any more")]
pub(crate) struct AcceptorEnded;

/// A listening socket and its accept loop.
pub(crate) struct Acceptor {
    socket: Socket,
    listener: UnixListener,
    heartbeat: Heartbeat,
}

impl Acceptor {
    /// Uses the socket that systemd passed, or else binds `path`.
    pub(crate) fn open(path: &Path, passed: Option<StdListener>) -> Result<Self, SocketError> {
        match passed {
            Some(listener) => {
                tracing::info!("systemd passed the socket {}", path.display());
                let listener = UnixListener::from_std(listener)
                    .map_err(|cause| SocketError::not_adopted(path, cause))?;
                let socket = Socket::Passed(path.to_path_buf());
                Ok(Self { socket, listener, heartbeat: Heartbeat::new() })
            }
            None => Self::bind(path),
        }
    }

    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        let bound = BoundSocket::bind(path)?;
        let listener = listen(&bound, path)?;
        Ok(Self { socket: Socket::Bound(bound), listener, heartbeat: Heartbeat::new() })
    }

    /// The heartbeat of the accept loop.
    pub(crate) fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.clone()
    }

    /// Accepts connections until `stopping`, or until nobody takes them any more.
    pub(crate) async fn run(
        mut self,
        path: PathBuf,
        streams: mpsc::Sender<UnixStream>,
        metrics: Metrics,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<(), AcceptorEnded> {
        let mut directory = DirectoryWatch::new(path.parent().unwrap_or(Path::new("/")));
        let mut next_check = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        let (mut failing, mut missing) = (false, false);
        loop {
            self.heartbeat.beat();
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = tokio::time::sleep_until(next_check) => {
                    let watched = directory.arm();
                    missing = self.check(&path, missing, &metrics);
                    next_check = Instant::now() + if watched && !missing { SLOW_POLL } else { POLL };
                    continue;
                }
                // While the socket is missing, a failed bind may itself change the directory: then only the timer
                // counts.
                () = directory.changed(), if !missing && next_check > Instant::now() + SETTLE => {
                    next_check = next_check.min(Instant::now() + SETTLE);
                    continue;
                }
                () = self.heartbeat.requested() => continue,
                _ = async { stopping.wait_for(|stop| *stop).await.is_ok() } => return Ok(()),
            };
            match accepted {
                Ok((stream, _)) => {
                    failing = false;
                    backoff.reset();
                    if streams.send(stream).await.is_err() {
                        return Err(AcceptorEnded);
                    }
                }
                Err(error) => {
                    metrics.accept_failure();
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(
                            "accepting a connection failed: {error}; retrying. Check the limit of open files (LimitNOFILE=)"
                        );
                    }
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// Checks whether the socket is in its place, and takes a new listener when it was bound again. Returns whether the
    /// socket is missing. `reported` is the last result: a socket that stays missing is logged once.
    fn check(&mut self, path: &Path, reported: bool, metrics: &Metrics) -> bool {
        match self.socket.check(path, reported) {
            Place::Kept => false,
            Place::Rebound(listener) => {
                metrics.rebind();
                self.listener = listener;
                false
            }
            Place::Missing => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// How long a test waits for something that must happen. Real time: inotify does not know the paused clock.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// A running accept loop.
    struct Running {
        path: PathBuf,
        streams: mpsc::Receiver<UnixStream>,
        heartbeat: Heartbeat,
        _stopping: watch::Sender<bool>,
        _tasks: tokio::task::JoinSet<Result<(), AcceptorEnded>>,
    }

    impl Running {
        fn start(path: PathBuf) -> Self {
            let acceptor = Acceptor::bind(&path).unwrap();
            let heartbeat = acceptor.heartbeat();
            let (sender, streams) = mpsc::channel(16);
            let (_stopping, stopping) = watch::channel(false);
            let mut _tasks = tokio::task::JoinSet::new();
            _tasks.spawn(acceptor.run(path.clone(), sender, Metrics::default(), stopping));
            Self { path, streams, heartbeat, _stopping, _tasks }
        }

        /// Connects as soon as somebody listens, and sees that the loop accepts.
        async fn serves(&mut self) {
            let connect_and_accept = async {
                while UnixStream::connect(&self.path).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                self.streams.recv().await.unwrap()
            };
            tokio::time::timeout(PATIENCE, connect_and_accept).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_deleted_socket_is_bound_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut running = Running::start(directory.path().join("kms.sock"));
        running.serves().await;
        for _ in 0..2 {
            fs::remove_file(&running.path).unwrap();
            running.serves().await;
        }
    }

    #[tokio::test]
    async fn a_socket_in_a_deleted_or_replaced_directory_is_bound_again() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("directory");
        fs::create_dir(&directory).unwrap();
        let mut running = Running::start(directory.join("kms.sock"));
        running.serves().await;
        fs::remove_dir_all(&directory).unwrap();
        tokio::time::sleep(SETTLE * 3).await;
        fs::create_dir(&directory).unwrap();
        running.serves().await;
        fs::rename(&directory, parent.path().join("aside")).unwrap();
        fs::create_dir(&directory).unwrap();
        running.serves().await;
        fs::remove_file(&running.path).unwrap();
        running.serves().await;
    }

    #[tokio::test]
    async fn an_idle_loop_beats_when_a_check_asks_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut running = Running::start(directory.path().join("kms.sock"));
        running.serves().await;
        let beats = async {
            // The first check may find an old beat. Later ones find the beats that the checks before them caused.
            let mut fresh = 0;
            while fresh < 5 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                fresh =
                    if running.heartbeat.within(Duration::from_millis(1000)).is_ok() { fresh + 1 } else { 0 };
            }
        };
        tokio::time::sleep(Duration::from_millis(1500)).await;
        tokio::time::timeout(PATIENCE, beats).await.unwrap();
    }
}
