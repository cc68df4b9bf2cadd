//! A KMS v2 client that behaves like kube-apiserver: it sends the deadline with every call, and `localhost` as the
//! authority.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::proto::key_management_service_client::KeyManagementServiceClient;

pub(crate) type KmsClient = KeyManagementServiceClient<InterceptedService<Channel, WithTimeout>>;

/// Why a connection to the socket failed.
#[derive(Debug, thiserror::Error)]
#[error("no KMS plugin answers on {socket}: is it running, and is --socket right?")]
pub(crate) struct ConnectError {
    pub socket: PathBuf,
    #[source]
    pub cause: ConnectCause,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectCause {
    /// The system refused the connection.
    #[error(transparent)]
    Socket(#[from] io::Error),
    /// The other side does not speak gRPC, or did not answer in time.
    #[error(transparent)]
    Grpc(#[from] tonic::transport::Error),
}

impl ConnectError {
    /// Whether this user may not connect.
    pub(crate) fn is_permission_denied(&self) -> bool {
        matches!(&self.cause, ConnectCause::Socket(cause) if cause.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// Sends the caller's deadline with every call, as kube-apiserver does.
#[derive(Clone)]
pub(crate) struct WithTimeout(Duration);

impl Interceptor for WithTimeout {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        request.set_timeout(self.0);
        Ok(request)
    }
}

/// Connects to the KMS socket at `path`. Each call has `timeout`.
///
/// # Errors
/// When no program answers there, or this user may not connect.
pub(crate) async fn connect(path: &Path, timeout: Duration) -> Result<KmsClient, ConnectError> {
    let error = |cause: ConnectCause| ConnectError { socket: path.to_path_buf(), cause };
    // The first connection is made here and not by tonic: tonic hides the system's error deep in a chain of errors.
    let first = UnixStream::connect(path).await.map_err(|cause| error(cause.into()))?;
    let (first, target) = (Arc::new(Mutex::new(Some(first))), path.to_path_buf());
    let connector = service_fn(move |_: Uri| {
        let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let target = target.clone();
        async move {
            match first {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => UnixStream::connect(target).await.map(TokioIo::new),
            }
        }
    });
    let endpoint = Endpoint::from_static("http://localhost").timeout(timeout).connect_timeout(timeout);
    let channel = endpoint.connect_with_connector(connector).await.map_err(|cause| error(cause.into()))?;
    Ok(KmsClient::new(InterceptedService::new(channel, WithTimeout(timeout))))
}

/// The path of a socket that is written with or without `unix://`.
pub(crate) fn socket_path(text: &str) -> PathBuf {
    PathBuf::from(text.strip_prefix("unix://").unwrap_or(text))
}
