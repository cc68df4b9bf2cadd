//! Accepts connections for the KMS server and keeps the socket in its place.
//!
//! The listener lives here, not in the server: a server that is started again loses no connection that
//! waits. A failing `accept` (out of descriptors) pauses and is told; tonic alone would spin on it.

use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::clock::BootTime;
use crate::health::Alive;
use crate::kms::KmsStream;
use crate::retry::Backoff;
use crate::socket::{BoundSocket, SocketError};
use crate::telemetry::metrics::Metrics;

/// How often the socket's place is looked at: a deleted one is back within a second.
const LOOK: Duration = Duration::from_millis(500);

/// A loop that has not gone round for so long is stuck: it looks at the socket twice a second.
const STUCK: Duration = Duration::from_secs(10);

/// Where connections come from.
pub(super) struct Acceptor {
    socket: Socket,
    listener: UnixListener,
    beat: Heartbeat,
}

enum Socket {
    /// Ours, to bind again.
    Bound(BoundSocket),
    /// systemd's, with its path: only root can make it again.
    Passed(PathBuf),
}

/// When the accept loop last went round, for the watchdog.
#[derive(Clone)]
pub(super) struct Heartbeat(Arc<AtomicU64>);

impl Heartbeat {
    /// One that has just beaten: the loop is about to start.
    fn new() -> Self {
        let new = Self(Arc::default());
        new.beat();
        new
    }

    fn beat(&self) {
        let millis = u64::try_from(BootTime::now().0.as_millis()).unwrap_or(u64::MAX);
        self.0.store(millis, Ordering::Relaxed);
    }

    /// How long ago the loop went round.
    pub(super) fn age(&self) -> Duration {
        let last = BootTime(Duration::from_millis(self.0.load(Ordering::Relaxed)));
        BootTime::now().since(last)
    }

    /// Whether the loop goes round, as `/livez` asks.
    pub(super) fn alive(&self) -> Alive {
        let beat = self.clone();
        Arc::new(move || match beat.age() {
            age if age < STUCK => Ok(()),
            age => Err(format!("connections have not been accepted for {age:?}")),
        })
    }
}

impl Acceptor {
    /// Takes over the socket that systemd passed, or binds `path`.
    pub(super) fn open(path: &Path, passed: Option<StdListener>) -> Result<Self, SocketError> {
        match passed {
            Some(listener) => {
                tracing::info!("systemd passed the socket {}", path.display());
                let listener = UnixListener::from_std(listener).map_err(|cause| not_taken(path, cause))?;
                Ok(Self { socket: Socket::Passed(path.to_path_buf()), listener, beat: Heartbeat::new() })
            }
            None => Self::bind(path),
        }
    }

    /// Binds `path`.
    pub(super) fn bind(path: &Path) -> Result<Self, SocketError> {
        let bound = BoundSocket::bind(path)?;
        let listener = listen(&bound, path)?;
        Ok(Self { socket: Socket::Bound(bound), listener, beat: Heartbeat::new() })
    }

    /// The accept loop's heartbeat.
    pub(super) fn heartbeat(&self) -> Heartbeat {
        self.beat.clone()
    }

    /// Accepts until `stopping`, or until nobody takes the connections any more.
    pub(super) async fn run(
        mut self,
        path: PathBuf,
        streams: mpsc::Sender<KmsStream>,
        metrics: Metrics,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<(), String> {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        let (mut failing, mut missing) = (false, false);
        loop {
            self.beat.beat();
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = looks.tick() => {
                    missing = self.look(&path, missing, &metrics);
                    continue;
                }
                _ = async { stopping.wait_for(|stop| *stop).await.is_ok() } => return Ok(()),
            };
            match accepted {
                Ok((stream, _)) => {
                    failing = false;
                    backoff.reset();
                    if streams.send(KmsStream::new(stream, metrics.connected())).await.is_err() {
                        return Err("the server takes no connections".into());
                    }
                }
                Err(error) => {
                    metrics.accept_failure();
                    if !std::mem::replace(&mut failing, true) {
                        tracing::error!(
                            "accepting a connection failed: {error}; pausing. Look at the limit of open files (LimitNOFILE)"
                        );
                    }
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    /// Puts the socket back when it is gone or replaced. Returns whether it still is: then it has been
    /// told, and is tried again.
    fn look(&mut self, path: &Path, told: bool, metrics: &Metrics) -> bool {
        match &self.socket {
            Socket::Bound(bound) if bound.in_place() => false,
            Socket::Bound(_) => match BoundSocket::bind(path)
                .and_then(|bound| Ok((listen(&bound, path)?, bound)))
            {
                Ok((listener, bound)) => {
                    tracing::warn!("the socket {} was gone or replaced; it is bound again", path.display());
                    metrics.rebind();
                    (self.listener, self.socket) = (listener, Socket::Bound(bound));
                    false
                }
                Err(error) => {
                    if !told {
                        tracing::error!(
                            "the socket is gone and cannot be bound again, and is tried on: {error}"
                        );
                    }
                    true
                }
            },
            Socket::Passed(path) => {
                let gone = !path.exists();
                if gone && !told {
                    tracing::error!(
                        "the socket {} is gone; systemd made it, and only root can make it again: systemctl restart kms-plugin.socket",
                        path.display()
                    );
                }
                gone
            }
        }
    }
}

/// The socket that systemd passed cannot be used.
pub(super) fn not_taken(path: &Path, cause: io::Error) -> SocketError {
    SocketError::Io { path: path.to_path_buf(), action: "taken over", cause }
}

fn listen(bound: &BoundSocket, path: &Path) -> Result<UnixListener, SocketError> {
    let listener = bound.listener().and_then(UnixListener::from_std);
    listener.map_err(|cause| SocketError::Io { path: path.to_path_buf(), action: "listened on", cause })
}
