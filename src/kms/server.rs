//! Serves KMS v2 on connections that the socket accepted: until the agent stops, and then until no call is in flight.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::transport::Server;

use super::request_guard::{Guarded, MAX_UNFINISHED, Unfinished};
use super::{Incoming, KmsService, MAX_MESSAGE};
use crate::proto::key_management_service_server::KeyManagementServiceServer;

/// Streams that one connection may have open at once.
const MAX_STREAMS: u32 = 256;
/// How much of a request, and of all requests on a connection, the peer may send before the server has taken it, in
/// bytes. The largest message fits, with its head.
const STREAM_WINDOW: u32 = 80 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
const _: () = assert!(STREAM_WINDOW as usize > MAX_MESSAGE + 16);
/// Time for peers to close their connections after the stop, counted while no call is in flight. Most close at once,
/// and then nothing waits. A peer that stays silent, or is too busy to notice the stop, is cut off after it.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The limits of a connection.
pub(super) fn builder() -> Server {
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
}

/// The service as a connection calls it.
pub(super) fn guarded(calls: Arc<KmsService>) -> Guarded<KeyManagementServiceServer<Arc<KmsService>>> {
    let service = KeyManagementServiceServer::new(calls.clone()).max_decoding_message_size(MAX_MESSAGE);
    Guarded::new(service, Some(calls), Unfinished::at_most(MAX_UNFINISHED))
}

/// Serves KMS v2 until `stopping`, and then until no call is in flight.
pub(crate) async fn serve(
    calls: Arc<KmsService>,
    incoming: Incoming,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let service = guarded(calls.clone());
    let mut stop = stopping.clone();
    // Without a router: there is one service, and it refuses the paths that it does not know.
    let serving = builder().serve_with_incoming_shutdown(service, incoming, async move {
        let _stopped = stopping.wait_for(|stop| *stop).await;
    });
    // Only calls delay the end. A peer that keeps an idle connection open does not.
    let drained = async move {
        let _stopped = stop.wait_for(|stop| *stop).await.is_ok();
        // Peers may send calls until they notice the stop, and these are answered, too. So there must be no call in
        // flight twice in a row.
        loop {
            calls.idle().await;
            tokio::time::sleep(LAST_ANSWERS).await;
            if calls.is_idle() {
                return;
            }
        }
    };
    tokio::select! {
        served = serving => served,
        () = drained => Ok(()),
    }
}
