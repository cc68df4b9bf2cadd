//! How the certificate of a server is verified.
//!
//! Must not know where the roots come from, nor what the connection is used for.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::certificate::CertificateFacts;

/// Most certificates of a chain that are recorded.
const MAX_CHAIN: usize = 16;

/// Verifies the signatures of each handshake, and the chain unless the administrator turned that off.
#[derive(Debug)]
pub(super) struct Verifier {
    /// Verifies the chain and the name. `None` accepts every certificate (`vault.insecure_skip_verify`).
    chain: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
    /// The chain that the server presented last, where it is recorded.
    presented: Option<Mutex<Vec<CertificateFacts>>>,
}

impl Verifier {
    /// Verifies the chain up to one of these roots.
    pub(super) fn with_roots(
        roots: RootCertStore,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let algorithms = provider.signature_verification_algorithms;
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        Ok(Self { chain: Some(chain), algorithms, presented: None })
    }

    /// Accepts every certificate: the identity of the server is not verified.
    pub(super) fn accepting_any(provider: &CryptoProvider) -> Self {
        Self { chain: None, algorithms: provider.signature_verification_algorithms, presented: None }
    }

    /// The same verifier, which also records the chain that a server presents, even if it is not trusted.
    pub(super) fn recording(self) -> Self {
        Self { presented: Some(Mutex::default()), ..self }
    }

    /// The recorded chain, the server's own certificate first. Empty when there was none.
    pub(super) fn presented(&self) -> Vec<CertificateFacts> {
        let presented = self.presented.as_ref();
        presented
            .map(|chain| chain.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .unwrap_or_default()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(recorded) = &self.presented {
            let presented = std::iter::once(end_entity).chain(intermediates).take(MAX_CHAIN);
            *recorded.lock().unwrap_or_else(PoisonError::into_inner) =
                presented.filter_map(CertificateFacts::of).collect();
        }
        match &self.chain {
            Some(chain) => {
                chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
