//! KMS v2 while there is no configuration: every call is answered UNAVAILABLE, with the reason.
//!
//! kube-apiserver then is not ready, and its log and its health output say why. Without an answer, each of its calls
//! would wait until its timeout.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, async_trait};

use super::request_guard::{Guarded, MAX_UNFINISHED, Unfinished};
use super::transport::serve_connections;
use super::{Incoming, MAX_MESSAGE, error_codes};
use crate::health::Snapshot;
use crate::proto::key_management_service_server::{KeyManagementService, KeyManagementServiceServer};
use crate::proto::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};

/// The service without a key service.
struct Unconfigured {
    snapshots: watch::Receiver<Arc<Snapshot>>,
}

impl Unconfigured {
    fn unavailable(&self) -> Status {
        match &self.snapshots.borrow().reason {
            Some(reason) => error_codes::of_reason(Code::Unavailable, reason),
            None => Status::unavailable("the agent has no configuration yet"),
        }
    }
}

#[async_trait]
impl KeyManagementService for Unconfigured {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Err(self.unavailable())
    }

    async fn encrypt(&self, _: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        Err(self.unavailable())
    }

    async fn decrypt(&self, _: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        Err(self.unavailable())
    }
}

/// Answers calls with the reason of the current snapshot until `stopping`.
pub(crate) async fn serve_unconfigured(
    snapshots: watch::Receiver<Arc<Snapshot>>,
    incoming: Incoming,
    stopping: watch::Receiver<bool>,
) {
    let service = KeyManagementServiceServer::new(Unconfigured { snapshots });
    let service = service.max_decoding_message_size(MAX_MESSAGE);
    let service = Guarded::new(service, None, Unfinished::at_most(MAX_UNFINISHED));
    serve_connections(service, incoming, stopping).await;
}
