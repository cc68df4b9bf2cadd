//! One TLS handshake that records the certificates of the server, even if the agent does not trust them.
//!
//! Must not know HTTP, nor send anything inside the connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::certificate::CertificateFacts;
use super::pem::TlsError;
use super::tls;
use crate::clock::Deadline;
use crate::config::vault::Tls;

/// The result of a handshake.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// The chain that the server presented, its own certificate first. Empty when it presented none.
    pub chain: Vec<CertificateFacts>,
    /// Whether the handshake was completed, or why not.
    pub outcome: io::Result<()>,
}

/// Makes a handshake with `address` as the agent would, for the server name `name`.
///
/// # Errors
/// When TLS cannot be set up with these files, or `name` is not a host name.
pub(super) async fn handshake(
    tls: &Tls,
    address: SocketAddr,
    name: &str,
    deadline: Deadline,
) -> Result<Handshake, TlsError> {
    let verifier = Arc::new(tls::verifier(tls)?.recording());
    let config = tls::config_with(tls, verifier.clone(), None)?;
    let server = ServerName::try_from(name.trim_matches(['[', ']']).to_owned())
        .map_err(|_| TlsError::of_server_name(name))?;
    let attempt = async {
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(server, stream).await
    };
    let outcome = match tokio::time::timeout_at(deadline.instant(), attempt).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake was not finished in time")),
    };
    Ok(Handshake { chain: verifier.presented(), outcome })
}
