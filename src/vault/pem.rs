//! Certificates and private keys in PEM files, and the error of everything that sets up TLS.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::pem_blocks::{self, Block, Fault, Wanted};
use crate::files;

/// Largest PEM file that is read, in bytes. A system's bundle of authorities has about 250 KiB.
pub(super) const MAX_PEM: u64 = 4 * 1024 * 1024;

/// Why TLS cannot be set up.
#[derive(Clone, Debug)]
pub(crate) struct TlsError {
    message: String,
    remedy: Option<String>,
}

impl std::fmt::Display for TlsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.remedy {
            Some(remedy) => write!(f, "{}; {remedy}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for TlsError {}

impl TlsError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: None }
    }

    pub(super) fn with_remedy(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { message: message.into(), remedy: Some(remedy.into()) }
    }

    pub(super) fn of_server_name(name: &str) -> Self {
        Self::new(format!("vault.server_name {name:?} is not a host name"))
    }

    fn of(path: &Path, fault: Fault) -> Self {
        Self::with_remedy(format!("{} {}", path.display(), fault.what), fault.remedy)
    }

    /// What is wrong, without what to do.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// What to do, where that is known.
    pub(crate) fn remedy(&self) -> Option<&str> {
        self.remedy.as_deref()
    }
}

/// The certificates of a PEM file: at least one, and each can be read.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    certificates_of(&pem, &path.display().to_string()).map_err(|fault| TlsError::of(path, fault))
}

fn certificates_of(pem: &[u8], path: &str) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let blocks = pem_blocks::wanted(pem, path, Wanted::Certificates)?;
    let parsed = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = parsed.map_err(|cause| damaged(&cause))?;
    if certificates.len() < blocks.len() {
        let what = "has blank characters or other text in a line with BEGIN or END".to_owned();
        return Err(Fault { what, remedy: format!("sed -i 's/[ \\t]*$//' {path}") });
    }
    // Nothing but the library's own parser decides what a certificate is.
    let is_bad =
        |certificate: &CertificateDer<'static>| RootCertStore::empty().add(certificate.clone()).is_err();
    match certificates.iter().zip(&blocks).find(|(certificate, _)| is_bad(certificate)) {
        Some((_, Block { line, .. })) => Err(Fault {
            what: format!(
                "holds a damaged certificate: the block that begins in line {line} is no certificate"
            ),
            remedy: format!("copy the certificate again; openssl x509 -in {path} -noout -text must show it"),
        }),
        None => Ok(certificates),
    }
}

/// The private key of a PEM file, which other users of the machine cannot read.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let failed = |cause: std::io::Error| unreadable(path, &cause);
    let (file, metadata) = files::open(path).map_err(failed)?;
    if metadata.mode() & 0o007 != 0 {
        let (shown, mode) = (path.display(), metadata.mode() & 0o7777);
        return Err(TlsError::with_remedy(
            format!(
                "every user of this machine can read or change the private key {shown} (mode {mode:04o})"
            ),
            format!("chmod 0640 {shown}, and rotate the key, because others may have read it"),
        ));
    }
    let pem = files::read_open(file, &metadata, MAX_PEM).map_err(failed)?;
    private_key_of(&pem, &path.display().to_string()).map_err(|fault| TlsError::of(path, fault))
}

fn private_key_of(pem: &[u8], path: &str) -> Result<PrivateKeyDer<'static>, Fault> {
    pem_blocks::wanted(pem, path, Wanted::PrivateKey)?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|cause| damaged(&cause))?;
    match rustls::crypto::aws_lc_rs::sign::any_supported_type(&key) {
        Ok(_) => Ok(key),
        Err(_) => Err(Fault {
            what: "holds a private key that is damaged, or of a kind that TLS does not use here".into(),
            remedy: format!(
                "openssl pkey -in {path} -noout -check must accept it; use RSA of 2048 bits or more, ECDSA P-256, P-384 or P-521, or Ed25519"
            ),
        }),
    }
}

fn damaged(cause: &PemError) -> Fault {
    let what = match cause {
        PemError::Base64Decode(_) => "is damaged: a block is not base64".to_owned(),
        other => format!("is not valid PEM: {other}"),
    };
    Fault { what, remedy: "copy the whole file again".into() }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    files::read(path, MAX_PEM).map_err(|cause| unreadable(path, &cause))
}

fn unreadable(path: &Path, cause: &std::io::Error) -> TlsError {
    TlsError::new(format!("{} cannot be read: {cause}", path.display()))
}

/// A file that TLS uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsFile {
    /// Of the authorities, or of the client.
    Certificates,
    ClientKey,
}

/// Reads a file of TLS as the agent does.
///
/// # Errors
/// Why the agent would refuse it.
pub(crate) fn check_file(path: &Path, kind: TlsFile) -> Result<(), TlsError> {
    match kind {
        TlsFile::Certificates => certificates(path).map(drop),
        TlsFile::ClientKey => private_key(path).map(drop),
    }
}

#[cfg(test)]
#[path = "pem_tests.rs"]
mod tests;
