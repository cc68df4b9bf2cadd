//! The content of a certificate: names, issuer, validity.
//!
//! Must not judge: the verifier decides whether a certificate is trusted.

use std::net::IpAddr;
use std::path::Path;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::pem::{self, TlsError};
use crate::untrusted;

/// Most names of a certificate that are kept.
const MAX_NAMES: usize = 256;

/// What a certificate says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateFacts {
    /// Subject and issuer are distinguished names.
    pub subject: String,
    pub issuer: String,
    /// The names that it is valid for: DNS names and IP addresses.
    pub names: Vec<String>,
    /// The start and the end of its validity, in seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
}

impl CertificateFacts {
    /// The certificates of a PEM file.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no certificate.
    pub(crate) fn of_file(path: &Path) -> Result<Vec<Self>, TlsError> {
        Ok(pem::certificates(path)?.iter().filter_map(Self::of).collect())
    }

    /// `None` when the bytes are not a certificate.
    pub(super) fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let alternatives = certificate.subject_alternative_name().ok().flatten();
        let names = alternatives
            .map(|names| names.value.general_names.iter().filter_map(name).take(MAX_NAMES).collect());
        Some(Self {
            subject: untrusted::text(&certificate.subject().to_string()),
            issuer: untrusted::text(&certificate.issuer().to_string()),
            names: names.unwrap_or_default(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(untrusted::text(name)),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}
