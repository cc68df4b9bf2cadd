//! TLS to the servers: roots, server name, client certificate, from files. One provider: aws-lc-rs.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use zeroize::Zeroizing;

use crate::config::vault::Tls;

/// Largest PEM file that is read, in bytes; a system's bundle has about 250 KiB.
const MAX_PEM: u64 = 4 * 1024 * 1024;

/// Why TLS cannot be set up.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct TlsError {
    message: String,
}

fn error(message: String) -> TlsError {
    TlsError { message }
}

/// The client configuration for `tls`.
pub(crate) fn client_config(tls: &Tls) -> Result<ClientConfig, TlsError> {
    if tls.skip_verify {
        tracing::error!(
            "INSECURE: server certificates are not verified; whoever is in the way can read every DEK seed and take the token"
        );
    }
    config_with(tls, verifier(tls)?)
}

/// How the servers' certificates are verified.
pub(super) fn verifier(tls: &Tls) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    if tls.skip_verify {
        return Ok(Arc::new(AcceptAny(provider)));
    }
    let roots = Arc::new(roots(tls.ca_file.as_deref())?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
    verifier
        .map(|verifier| verifier as Arc<dyn ServerCertVerifier>)
        .map_err(|cause| error(format!("the authorities cannot be used: {cause}")))
}

/// The client configuration for `tls` with this verifier.
pub(super) fn config_with(
    tls: &Tls,
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| error(format!("no TLS version is usable: {cause}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some((certificate, key)) = &tls.client else { return Ok(builder.with_no_client_auth()) };
    let (chain, private) = (certificates(certificate)?, private_key(key)?);
    builder.with_client_auth_cert(chain, private).map_err(|cause| {
        error(format!(
            "the client certificate {} and the key {} do not fit together: {cause}",
            certificate.display(),
            key.display()
        ))
    })
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|cause| {
                    error(format!(
                        "the CA file {} holds a certificate that cannot be a root: {cause}",
                        path.display()
                    ))
                })?;
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
            if roots.is_empty() {
                return Err(error(
                    "this system has no root certificates; name the authority of your servers with vault.ca_file".into(),
                ));
            }
        }
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let cannot = |cause: std::io::Error| error(format!("{} cannot be read: {cause}", path.display()));
    let file = File::open(path).map_err(cannot)?;
    let length = file.metadata().map_err(cannot)?.len();
    if length > MAX_PEM {
        return Err(error(format!("{} is larger than 4 MiB", path.display())));
    }
    let mut pem = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or_default() + 1));
    file.take(MAX_PEM).read_to_end(&mut pem).map_err(cannot)?;
    Ok(pem)
}

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(error(format!("{} holds no PEM certificate (BEGIN CERTIFICATE)", path.display()))),
        Err(cause) => Err(error(format!("{} is not valid PEM: {cause}", path.display()))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read(path)?;
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|cause| error(format!("{} holds no usable PEM private key: {cause}", path.display())))
}

/// Verifies signatures but no identity, for `insecure_skip_verify`.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl TlsError {
    pub(super) fn of_server_name(name: &str) -> Self {
        error(format!("vault.server_name {name:?} is not a host name"))
    }

    pub(super) fn of_client(cause: &dyn std::error::Error) -> Self {
        error(format!("the HTTP client cannot be built: {}", super::error::chain(cause)))
    }
}
