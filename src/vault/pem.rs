//! Certificates and private keys in PEM files, and the error of everything that sets up TLS.

use std::path::Path;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::files;

/// Largest PEM file that is read, in bytes. A system's bundle of authorities has about 250 KiB.
pub(super) const MAX_PEM: u64 = 4 * 1024 * 1024;

/// Why TLS cannot be set up.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct TlsError {
    message: String,
}

impl TlsError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }

    pub(super) fn of_server_name(name: &str) -> Self {
        Self::new(format!("vault.server_name {name:?} is not a host name"))
    }
}

/// The certificates of a PEM file: at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => {
            Err(TlsError::new(format!("{} holds no PEM certificate (BEGIN CERTIFICATE)", path.display())))
        }
        Err(cause) => Err(TlsError::new(format!("{} is not valid PEM: {cause}", path.display()))),
    }
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read(path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|cause| {
        TlsError::new(format!("{} holds no usable PEM private key: {cause}", path.display()))
    })
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    files::read(path, MAX_PEM)
        .map_err(|cause| TlsError::new(format!("{} cannot be read: {cause}", path.display())))
}
