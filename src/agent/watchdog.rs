//! Tells systemd that we live, when we do: a Status call through our own server, and the accept loop's
//! heartbeat. Never looks at the key service: killing us would not bring it back.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::kms::client::{ConnectError, connect};
use crate::proto::StatusRequest;
use crate::socket::{Heartbeat, Stalled};
use crate::systemd::notify;

/// Why the watchdog is not fed.
#[derive(Debug, thiserror::Error)]
enum Unhealthy {
    #[error(transparent)]
    Stalled(#[from] Stalled),
    #[error("our server cannot be connected to: {0}")]
    Connect(#[from] ConnectError),
    #[error("Status was not answered within {0:?}")]
    TimedOut(Duration),
    #[error("Status failed: {0}")]
    Status(tonic::Status),
}

/// Feeds the watchdog for ever; does nothing where systemd wants nothing.
pub(super) async fn run(socket: PathBuf, heartbeat: Heartbeat) {
    let Some(interval) = notify::watchdog_interval() else { return std::future::pending().await };
    let mut reported = false;
    loop {
        match alive(&socket, &heartbeat, interval).await {
            Ok(()) => {
                notify::alive();
                reported = false;
            }
            Err(cause) => {
                if !std::mem::replace(&mut reported, true) {
                    tracing::error!("the watchdog is not fed: {cause}");
                }
            }
        }
        tokio::time::sleep(interval / 3).await;
    }
}

async fn alive(socket: &Path, heartbeat: &Heartbeat, interval: Duration) -> Result<(), Unhealthy> {
    heartbeat.within(interval / 2)?;
    let timeout = interval / 4;
    match tokio::time::timeout(timeout, status(socket, timeout)).await {
        Ok(result) => result,
        Err(_) => Err(Unhealthy::TimedOut(timeout)),
    }
}

/// Whether our server answers Status, whatever it answers.
async fn status(socket: &Path, timeout: Duration) -> Result<(), Unhealthy> {
    match connect(socket, timeout).await?.status(StatusRequest {}).await {
        Ok(_) => Ok(()),
        // A status that came over the wire has no source: the server lives and says so.
        Err(status) if status.source().is_none() => Ok(()),
        Err(status) => Err(Unhealthy::Status(status)),
    }
}
