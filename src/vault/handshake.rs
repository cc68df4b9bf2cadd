//! One TLS handshake that shows what the server presented, also when that was refused.
//!
//! Must not know HTTP, nor send anything inside the connection.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::certificate::CertificateFacts;
use super::tls::{self, TlsError};
use crate::clock::Deadline;
use crate::config::vault::Tls;

/// Most certificates of a chain that are looked at.
const MAX_CHAIN: usize = 16;

/// What a handshake showed.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// The chain that the server presented, its own certificate first; empty when it came to none.
    pub chain: Vec<CertificateFacts>,
    /// Whether the handshake was completed, or why not.
    pub outcome: io::Result<()>,
}

/// Shakes hands with `address` as the agent would, under `name`.
///
/// # Errors
/// When TLS cannot be set up with these files, or `name` is no host name.
pub(super) async fn handshake(
    tls: &Tls,
    address: SocketAddr,
    name: &str,
    deadline: Deadline,
) -> Result<Handshake, TlsError> {
    let witness = Arc::new(Witness { inner: tls::verifier(tls)?, seen: Mutex::default() });
    let config = tls::config_with(tls, witness.clone())?;
    let server = ServerName::try_from(name.trim_matches(['[', ']']).to_owned())
        .map_err(|_| TlsError::of_server_name(name))?;
    let shake = async {
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(server, stream).await
    };
    let outcome = match tokio::time::timeout_at(deadline.instant(), shake).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake was not finished in time")),
    };
    let seen = witness.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Handshake { chain: seen, outcome })
}

/// Verifies as `inner` does, and remembers what was presented.
#[derive(Debug)]
struct Witness {
    inner: Arc<dyn ServerCertVerifier>,
    seen: Mutex<Vec<CertificateFacts>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented = std::iter::once(end_entity).chain(intermediates).take(MAX_CHAIN);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) =
            presented.filter_map(CertificateFacts::of).collect();
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
