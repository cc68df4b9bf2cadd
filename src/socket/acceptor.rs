//! Accepts connections for the KMS server and keeps the socket in its place.
//!
//! The listener lives here, not in the server: a server that is started again loses no connection that
//! waits. A failing `accept` (out of descriptors) pauses and is told; tonic alone would spin on it.

use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::{BoundSocket, Heartbeat, SocketError};
use crate::retry::Backoff;
use crate::telemetry::metrics::Metrics;

/// How often the socket's place is looked at: a deleted one is back within a second.
const LOOK: Duration = Duration::from_millis(500);

/// Nobody takes the accepted connections any more: the server has ended.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server takes no connections any more")]
pub(crate) struct AcceptorEnded;

/// Where connections come from.
pub(crate) struct Acceptor {
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

impl Acceptor {
    /// Takes over the socket that systemd passed, or binds `path`.
    pub(crate) fn open(path: &Path, passed: Option<StdListener>) -> Result<Self, SocketError> {
        match passed {
            Some(listener) => {
                tracing::info!("systemd passed the socket {}", path.display());
                let listener = UnixListener::from_std(listener)
                    .map_err(|cause| SocketError::not_adopted(path, cause))?;
                Ok(Self { socket: Socket::Passed(path.to_path_buf()), listener, beat: Heartbeat::new() })
            }
            None => Self::bind(path),
        }
    }

    /// Binds `path`.
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        let bound = BoundSocket::bind(path)?;
        let listener = listen(&bound, path)?;
        Ok(Self { socket: Socket::Bound(bound), listener, beat: Heartbeat::new() })
    }

    /// The accept loop's heartbeat.
    pub(crate) fn heartbeat(&self) -> Heartbeat {
        self.beat.clone()
    }

    /// Accepts until `stopping`, or until nobody takes the connections any more.
    pub(crate) async fn run(
        mut self,
        path: PathBuf,
        streams: mpsc::Sender<UnixStream>,
        metrics: Metrics,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<(), AcceptorEnded> {
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
                    if streams.send(stream).await.is_err() {
                        return Err(AcceptorEnded);
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

fn listen(bound: &BoundSocket, path: &Path) -> Result<UnixListener, SocketError> {
    let listener = bound.listener().and_then(UnixListener::from_std);
    listener.map_err(|cause| SocketError::Io { path: path.to_path_buf(), action: "listened on", cause })
}
