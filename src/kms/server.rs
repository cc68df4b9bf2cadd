//! The KMS server's life on connections that others accept: until it is told to stop, and then until no call is
//! under way.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::transport::Server;

use super::{Incoming, KmsService, MAX_MESSAGE};
use crate::proto::key_management_service_server::KeyManagementServiceServer;

/// Streams that one connection may have open at once.
const MAX_STREAMS: u32 = 256;
/// How often a draining agent looks whether calls are under way.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// Time for peers to leave by themselves when no call is under way. Most do at once, and then nothing
/// waits; a peer that is silent, or too busy to hear of the end, is cut off after it.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Serves KMS v2 until `stopping`, and then until no call is under way.
pub(crate) async fn serve(
    calls: Arc<KmsService>,
    incoming: Incoming,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let service = KeyManagementServiceServer::new(calls.clone()).max_decoding_message_size(MAX_MESSAGE);
    let mut told = stopping.clone();
    let serving = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, async move {
            let _stopped = stopping.wait_for(|stop| *stop).await;
        });
    // A peer that keeps an idle connection open does not hold up the end: calls do.
    let drained = async move {
        let _stopped = told.wait_for(|stop| *stop).await.is_ok();
        // Calls that were sent while the peers learnt of the stop still end: idle twice in a row.
        while !calls.is_idle() || !idle_after(LAST_ANSWERS, &calls).await {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    };
    tokio::select! {
        served = serving => served,
        () = drained => Ok(()),
    }
}

async fn idle_after(pause: Duration, calls: &KmsService) -> bool {
    tokio::time::sleep(pause).await;
    calls.is_idle()
}
