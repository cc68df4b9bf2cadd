//! Sends keep-alives to systemd's watchdog while the agent works: a Status call through our own server is answered,
//! and the accept loop has run.
//!
//! Must not check the key service: a restart of the agent does not repair the key service.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::timing::{WATCHDOG_CALL, WATCHDOG_HEARTBEAT, WATCHDOG_PAUSE};
use crate::kms::client::{ConnectError, connect};
use crate::proto::StatusRequest;
use crate::socket::{Heartbeat, Stalled};
use crate::systemd::notify;

/// Why no keep-alive is sent.
#[derive(Debug, thiserror::Error)]
enum Unhealthy {
    #[error(transparent)]
    Stalled(#[from] Stalled),
    #[error("our own server cannot be reached: {}", .0.cause)]
    Connect(#[from] ConnectError),
    #[error("Status was not answered within {0:?}")]
    TimedOut(Duration),
    #[error("Status failed: {0}")]
    Status(tonic::Status),
}

/// Sends keep-alives for ever; none where systemd has no watchdog for this service.
pub(super) async fn run(socket: PathBuf, heartbeat: Heartbeat) {
    let Some(interval) = notify::watchdog_interval() else { return std::future::pending().await };
    let mut reported = false;
    loop {
        match check(&socket, &heartbeat, interval).await {
            Ok(()) => {
                notify::alive();
                reported = false;
            }
            Err(cause) => {
                if !std::mem::replace(&mut reported, true) {
                    tracing::error!("no keep-alive is sent to systemd's watchdog: {cause}");
                }
            }
        }
        tokio::time::sleep(interval / WATCHDOG_PAUSE).await;
    }
}

async fn check(socket: &Path, heartbeat: &Heartbeat, interval: Duration) -> Result<(), Unhealthy> {
    heartbeat.within(interval / WATCHDOG_HEARTBEAT)?;
    let timeout = interval / WATCHDOG_CALL;
    match tokio::time::timeout(timeout, status(socket, timeout)).await {
        Ok(result) => result,
        Err(_) => Err(Unhealthy::TimedOut(timeout)),
    }
}

/// Whether our server answers Status. The answer itself may be an error.
async fn status(socket: &Path, timeout: Duration) -> Result<(), Unhealthy> {
    match connect(socket, timeout).await?.status(StatusRequest {}).await {
        Ok(_) => Ok(()),
        // An error that the server sent has no source. One that the client made, because the connection failed, has
        // one.
        Err(status) if status.source().is_none() => Ok(()),
        Err(status) => Err(Unhealthy::Status(status)),
    }
}
