//! TLS to the servers, from the configured files: trusted roots and client certificate. One provider: aws-lc-rs.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ClientConfig, RootCertStore};

use super::pem::{TlsError, certificates, private_key};
use super::verifier::Verifier;
use crate::config::vault::Tls;
use crate::fips;
use crate::spiffe::X509Svid;

/// The client configuration for `tls`. Reads its files.
pub(crate) fn client_config(tls: &Tls, svid: Option<&X509Svid>) -> Result<ClientConfig, TlsError> {
    if tls.skip_verify {
        tracing::error!(
            "INSECURE: server certificates are not verified; a man in the middle can read every DEK seed and the token"
        );
    }
    let config = config_with(tls, Arc::new(verifier(tls)?), svid)?;
    fips::verify_tls(&config).map_err(|cause| TlsError::new(cause.to_string()))?;
    Ok(config)
}

/// How the servers' certificates are verified.
pub(super) fn verifier(tls: &Tls) -> Result<Verifier, TlsError> {
    let provider = aws_lc_rs::default_provider();
    if tls.skip_verify {
        return Ok(Verifier::accepting_any(&provider));
    }
    Verifier::with_roots(roots(tls.ca_file.as_deref())?, Arc::new(provider))
        .map_err(|cause| TlsError::new(format!("the authorities cannot be used: {cause}")))
}

/// The client configuration for `tls` with this verifier, and with this SVID as the client certificate if there is one.
pub(super) fn config_with(
    tls: &Tls,
    verifier: Arc<Verifier>,
    svid: Option<&X509Svid>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|cause| TlsError::new(format!("no TLS version is usable: {cause}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    if let Some(svid) = svid {
        let key = PrivatePkcs8KeyDer::from(svid.key.to_vec()).into();
        return builder.with_client_auth_cert(svid.chain.clone(), key).map_err(|cause| {
            TlsError::new(format!(
                "the X.509-SVID of {} cannot be used as a client certificate: {cause}",
                svid.id
            ))
        });
    }
    let Some((certificate, key)) = &tls.client else { return Ok(builder.with_no_client_auth()) };
    let (chain, private) = (certificates(certificate)?, private_key(key)?);
    builder.with_client_auth_cert(chain, private).map_err(|cause| {
        TlsError::new(format!(
            "the client certificate {} and the key {} do not fit together: {cause}",
            certificate.display(),
            key.display()
        ))
    })
}

/// The authorities of the file, or those of the system.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        if roots.is_empty() {
            return Err(TlsError::new(
                "this system has no root certificates; set vault.ca_file to the authority of your servers",
            ));
        }
        return Ok(roots);
    };
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|cause| {
            TlsError::new(format!(
                "the CA file {} holds a certificate that cannot be a root: {cause}",
                path.display()
            ))
        })?;
    }
    Ok(roots)
}
