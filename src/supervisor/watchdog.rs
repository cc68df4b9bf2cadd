//! Tells systemd that we live, when we do: a Status call through our own server, and the accept loop's
//! heartbeat. Never looks at the key service: killing us would not bring it back.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use super::acceptor::Heartbeat;
use crate::proto::StatusRequest;
use crate::proto::key_management_service_client::KeyManagementServiceClient;
use crate::systemd::notify;

/// Feeds the watchdog for ever; does nothing where systemd wants nothing.
pub(super) async fn run(socket: PathBuf, beat: Heartbeat) {
    let Some(interval) = notify::watchdog_interval() else { return std::future::pending().await };
    let mut told = false;
    loop {
        match alive(&socket, &beat, interval).await {
            Ok(()) => {
                notify::alive();
                told = false;
            }
            Err(cause) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::error!("the watchdog is not fed: {cause}");
                }
            }
        }
        tokio::time::sleep(interval / 3).await;
    }
}

async fn alive(socket: &Path, beat: &Heartbeat, interval: Duration) -> Result<(), String> {
    let age = beat.age();
    if age > interval / 2 {
        return Err(format!("connections have not been accepted for {age:?}"));
    }
    match tokio::time::timeout(interval / 4, status(socket)).await {
        Ok(result) => result,
        Err(_) => Err(format!("Status was not answered within {:?}", interval / 4)),
    }
}

/// Whether our server answers Status, whatever it answers.
async fn status(socket: &Path) -> Result<(), String> {
    let target = socket.to_path_buf();
    let connector = service_fn(move |_: Uri| {
        let target = target.clone();
        async move { UnixStream::connect(target).await.map(TokioIo::new) }
    });
    let connected = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
    let channel: Channel =
        connected.map_err(|error| format!("our server cannot be connected to: {error}"))?;
    match KeyManagementServiceClient::new(channel).status(StatusRequest {}).await {
        Ok(_) => Ok(()),
        // A status that came over the wire has no source: the server lives and says so.
        Err(status) if status.source().is_none() => Ok(()),
        Err(status) => Err(status.to_string()),
    }
}
