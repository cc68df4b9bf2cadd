//! Serves KMS v2 on connections that the socket accepted: until the agent stops, and then until no call is in flight.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::request_guard::{Guarded, MAX_UNFINISHED, Unfinished};
use super::transport::serve_connections;
use super::{Incoming, KmsService, MAX_MESSAGE};
use crate::proto::key_management_service_server::KeyManagementServiceServer;

/// Time for peers to close their connections after the stop, counted while no call is in flight. Most close at once,
/// and then nothing waits. A peer that stays silent, or is too busy to notice the stop, is cut off after it.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The service as a connection calls it.
pub(super) fn guarded(calls: Arc<KmsService>) -> Guarded<KeyManagementServiceServer<Arc<KmsService>>> {
    let service = KeyManagementServiceServer::new(calls.clone()).max_decoding_message_size(MAX_MESSAGE);
    Guarded::new(service, Some(calls), Unfinished::at_most(MAX_UNFINISHED))
}

/// Serves KMS v2 until `stopping`, and then until no call is in flight.
pub(crate) async fn serve(calls: Arc<KmsService>, incoming: Incoming, stopping: watch::Receiver<bool>) {
    let mut stop = stopping.clone();
    let serving = serve_connections(guarded(calls.clone()), incoming, stopping);
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
        () = serving => {}
        () = drained => {}
    }
}
