//! The calls to the Workload API.

use std::fmt;
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Streaming};
use tower::service_fn;
use zeroize::Zeroizing;

use super::der;
use super::error::SpiffeError;
use super::messages::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use super::messages::{JwtsvidRequest, X509svidRequest, X509svidResponse};
use crate::clock::Deadline;
use crate::secret::Secret;

/// The API answers only a request with this header, so that no browser and no gateway can be led to it (SPIFFE
/// Workload API, section 4.1).
const HEADER: &str = "workload.spiffe.io";
/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;

/// The API at a unix socket. Each call makes a connection of its own: the API is asked seldom, and its agent may be
/// restarted at any time.
#[derive(Clone, Debug)]
pub(crate) struct WorkloadApi {
    socket: PathBuf,
    /// The identity to use, where the process has several; `None`: the first.
    id: Option<String>,
}

/// An identity as a certificate with its key.
#[derive(PartialEq, Eq)]
pub(crate) struct X509Svid {
    /// `spiffe://…`.
    pub id: String,
    /// The certificate first, then its intermediates.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8, DER.
    pub key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "X509Svid({})", self.id)
    }
}

/// The X.509-SVIDs, as they are replaced.
pub(crate) struct X509Svids {
    socket: PathBuf,
    id: Option<String>,
    stream: Streaming<X509svidResponse>,
}

impl WorkloadApi {
    pub(crate) fn new(socket: &Path, id: Option<&str>) -> Self {
        Self { socket: socket.to_path_buf(), id: id.map(str::to_owned) }
    }

    /// A JWT-SVID for this audience.
    ///
    /// # Errors
    /// When the API is away, or knows no such identity of this process.
    pub(crate) async fn jwt_svid(&self, audience: &str, deadline: Deadline) -> Result<Secret, SpiffeError> {
        let call = async {
            let spiffe_id = self.id.clone().unwrap_or_default();
            let request = JwtsvidRequest { audience: vec![audience.to_owned()], spiffe_id };
            let answer = self.client().await?.fetch_jwtsvid(with_header(request)).await;
            let svids = answer.map_err(|status| SpiffeError::of(&self.socket, &status))?.into_inner().svids;
            let mut first = None;
            for svid in svids {
                let secret = Secret::new(svid.svid);
                if first.is_none() && self.is_wanted(&svid.spiffe_id) && !secret.expose().is_empty() {
                    first = Some(secret);
                }
            }
            first.ok_or_else(|| self.not_there())
        };
        self.in_time(deadline, call).await
    }

    /// Follows the X.509-SVID: the first comes at once.
    ///
    /// # Errors
    /// When the API is away, or knows no identity of this process.
    pub(crate) async fn x509_svids(&self, deadline: Deadline) -> Result<X509Svids, SpiffeError> {
        let call = async {
            let answer = self.client().await?.fetch_x509svid(with_header(X509svidRequest {})).await;
            let stream = answer.map_err(|status| SpiffeError::of(&self.socket, &status))?.into_inner();
            Ok(X509Svids { socket: self.socket.clone(), id: self.id.clone(), stream })
        };
        self.in_time(deadline, call).await
    }

    /// The X.509-SVID now.
    ///
    /// # Errors
    /// As [`Self::x509_svids`].
    pub(crate) async fn x509_svid(&self, deadline: Deadline) -> Result<X509Svid, SpiffeError> {
        let mut svids = self.x509_svids(deadline).await?;
        self.in_time(deadline, svids.next()).await
    }

    async fn in_time<T>(
        &self,
        deadline: Deadline,
        call: impl Future<Output = Result<T, SpiffeError>>,
    ) -> Result<T, SpiffeError> {
        let ended = tokio::time::timeout_at(deadline.instant(), call).await;
        ended.unwrap_or_else(|_| Err(SpiffeError::timed_out(&self.socket)))
    }

    async fn client(&self) -> Result<SpiffeWorkloadApiClient<Channel>, SpiffeError> {
        let error = |cause: &dyn fmt::Display| SpiffeError::no_connection(&self.socket, cause);
        let stream = UnixStream::connect(&self.socket).await.map_err(|cause| error(&cause))?;
        let mut stream = Some(stream);
        let connector = service_fn(move |_: Uri| {
            let taken = stream.take().map(TokioIo::new);
            async move { taken.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
        let client = SpiffeWorkloadApiClient::new(channel.map_err(|cause| error(&cause))?);
        Ok(client.max_decoding_message_size(MAX_ANSWER))
    }

    fn is_wanted(&self, id: &str) -> bool {
        self.id.as_deref().is_none_or(|wanted| wanted == id)
    }

    fn not_there(&self) -> SpiffeError {
        not_there(&self.socket, self.id.as_deref())
    }
}

impl X509Svids {
    /// The first SVID, and then each that replaces it.
    ///
    /// # Errors
    /// When the API ends the stream, or its answer has no usable identity.
    pub(crate) async fn next(&mut self) -> Result<X509Svid, SpiffeError> {
        let message = self.stream.message().await.map_err(|status| SpiffeError::of(&self.socket, &status))?;
        let Some(message) = message else {
            return Err(SpiffeError::no_connection(&self.socket, &"the API has ended the connection"));
        };
        let mut found = None;
        for mut svid in message.svids {
            let key = Zeroizing::new(std::mem::take(&mut svid.x509_svid_key));
            let is_wanted = self.id.as_deref().is_none_or(|wanted| wanted == svid.spiffe_id);
            if found.is_none() && is_wanted {
                let chain = der::split(&svid.x509_svid).filter(|chain| !chain.is_empty());
                found = chain.map(|chain| X509Svid {
                    id: svid.spiffe_id,
                    chain: chain.into_iter().map(CertificateDer::from).collect(),
                    key,
                });
            }
        }
        found.ok_or_else(|| not_there(&self.socket, self.id.as_deref()))
    }
}

fn not_there(socket: &Path, id: Option<&str>) -> SpiffeError {
    let socket = socket.display();
    match id {
        Some(id) => SpiffeError::new(
            format!("the SPIFFE Workload API at {socket} does not give {id} to this process"),
            "correct vault.spiffe.id, or register that identity for the user of the service",
        ),
        None => SpiffeError::new(
            format!("the SPIFFE Workload API at {socket} answered without a usable identity"),
            "see the log of the SPIRE agent",
        ),
    }
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(HEADER, tonic::metadata::MetadataValue::from_static("true"));
    request
}
