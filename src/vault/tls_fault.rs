//! Why a TLS connection failed, in words for an administrator. The agent and `check` use the same ones.
//!
//! Must not know the address, nor show anything that a server has written.

use std::error::Error as StdError;
use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use crate::clock::unix_seconds;
use crate::display::date;

/// The cause of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TlsFault {
    /// The answer is not TLS.
    NotTls,
    WrongName {
        /// Whether the certificate has no name of the form that counts (subjectAltName).
        has_none: bool,
    },
    UnknownAuthority,
    /// The end of the validity in Unix seconds, where it is known.
    Expired(Option<i64>),
    /// The beginning of the validity in Unix seconds, where it is known.
    NotYetValid(Option<i64>),
    /// The server presents the certificate of an authority as its own.
    AuthorityAsServer,
    NotForServers,
    /// X.509 version 1 or 2.
    OldVersion,
    WeakSignature,
    UnreadableCertificate,
    /// The server presents no certificate.
    NoCertificate,
    WantsClientCertificate,
    RefusesClientCertificate {
        /// Why, as the server said it.
        because: &'static str,
    },
    /// No common version or cipher.
    NothingInCommon,
    /// The server does not know the name that was asked for (SNI).
    UnknownName,
}

impl TlsFault {
    /// The cause, when one of the errors in the chain is of TLS and its meaning is known.
    pub(crate) fn in_chain(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(cause) = next {
            if let Some(fault) = tls_error(cause).and_then(Self::of) {
                return Some(fault);
            }
            next = cause.source();
        }
        None
    }

    fn of(error: &Error) -> Option<Self> {
        match error {
            Error::InvalidMessage(_) => Some(Self::NotTls),
            Error::InvalidCertificate(cause) => Self::of_certificate(cause),
            Error::NoCertificatesPresented => Some(Self::NoCertificate),
            Error::PeerIncompatible(_) => Some(Self::NothingInCommon),
            Error::AlertReceived(alert) => Self::of_alert(*alert),
            _ => None,
        }
    }

    fn of_certificate(cause: &CertificateError) -> Option<Self> {
        let seconds = |time: rustls::pki_types::UnixTime| i64::try_from(time.as_secs()).ok();
        Some(match cause {
            CertificateError::NotValidForName => Self::WrongName { has_none: false },
            CertificateError::NotValidForNameContext { presented, .. } => {
                Self::WrongName { has_none: presented.is_empty() }
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
            CertificateError::Expired => Self::Expired(None),
            CertificateError::ExpiredContext { not_after, .. } => Self::Expired(seconds(*not_after)),
            CertificateError::NotValidYet => Self::NotYetValid(None),
            CertificateError::NotValidYetContext { not_before, .. } => {
                Self::NotYetValid(seconds(*not_before))
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::NotForServers
            }
            CertificateError::BadEncoding => Self::UnreadableCertificate,
            // The library of certificates has further causes, which it does not export by a type of rustls.
            other => match format!("{other:?}") {
                text if text.contains("CaUsedAsEndEntity") => Self::AuthorityAsServer,
                text if text.contains("UnsupportedCertVersion") => Self::OldVersion,
                text if text.contains("UnsupportedSignature") => Self::WeakSignature,
                _ => return None,
            },
        })
    }

    fn of_alert(alert: AlertDescription) -> Option<Self> {
        let refused = |because| Some(Self::RefusesClientCertificate { because });
        match alert {
            AlertDescription::CertificateRequired => Some(Self::WantsClientCertificate),
            AlertDescription::UnknownCA => refused("it does not know the authority"),
            AlertDescription::CertificateExpired => refused("it has expired"),
            AlertDescription::DecryptError => {
                refused("a signature does not fit: it is of another authority with the same name")
            }
            AlertDescription::CertificateRevoked => refused("it was revoked"),
            AlertDescription::UnsupportedCertificate => {
                refused("it is not of a kind that the server accepts")
            }
            AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
                refused("the server does not say why")
            }
            AlertDescription::AccessDenied => refused("access is denied"),
            AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity => Some(Self::NothingInCommon),
            AlertDescription::UnrecognisedName => Some(Self::UnknownName),
            _ => None,
        }
    }

    /// What the server does, as the end of a sentence that begins with its address.
    pub(crate) fn what(&self) -> String {
        let now = || date(unix_seconds());
        match self {
            Self::NotTls => "does not speak TLS on this port".into(),
            Self::WrongName { has_none: false } => "presents a certificate for another name".into(),
            Self::WrongName { has_none: true } => {
                "presents a certificate without a name in subjectAltName; a common name does not count".into()
            }
            Self::UnknownAuthority => {
                "presents a certificate of an unknown authority, or of another authority with the same name"
                    .into()
            }
            Self::Expired(Some(at)) => {
                format!(
                    "presents a certificate that expired at {}; this node's clock shows {}",
                    date(*at),
                    now()
                )
            }
            Self::Expired(None) => "presents a certificate that has expired".into(),
            Self::NotYetValid(Some(from)) => format!(
                "presents a certificate that is valid from {}; this node's clock shows {}",
                date(*from),
                now()
            ),
            Self::NotYetValid(None) => "presents a certificate that is not valid yet".into(),
            Self::AuthorityAsServer => "presents the certificate of an authority as its own".into(),
            Self::NotForServers => "presents a certificate that is not for servers".into(),
            Self::OldVersion => "presents a certificate of an old X.509 version, without extensions".into(),
            Self::WeakSignature => {
                "presents a certificate that is signed with an unsafe or unknown algorithm".into()
            }
            Self::UnreadableCertificate => "presents a certificate that is damaged".into(),
            Self::NoCertificate => "presents no certificate".into(),
            Self::WantsClientCertificate => "wants a client certificate, and the agent has none".into(),
            Self::RefusesClientCertificate { because } => {
                format!("does not accept the client certificate of the agent: {because}")
            }
            Self::NothingInCommon => "has no version or cipher of TLS in common with the agent".into(),
            Self::UnknownName => "has no certificate for the name that the agent asks for".into(),
        }
    }

    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::NotTls => "check the scheme and the port in vault.addresses",
            Self::WrongName { has_none: false } => {
                "set vault.server_name to a name in the certificate, or use that name in vault.addresses"
            }
            Self::WrongName { has_none: true } | Self::OldVersion => {
                "let the authority issue a certificate of version 3 with the name of the server in subjectAltName"
            }
            Self::UnknownAuthority => "set vault.ca_file to the authority that signed it",
            Self::Expired(_) => {
                "renew the server's certificate; if this node's clock is wrong, set it: timedatectl"
            }
            Self::NotYetValid(_) => "this node's clock is probably slow: timedatectl, chronyc tracking",
            Self::AuthorityAsServer => {
                "let the authority sign a certificate for the server, and give the server that one (tls_cert_file of its listener); the authority's own belongs into vault.ca_file only"
            }
            Self::NotForServers => "issue the server's certificate with the extended key usage serverAuth",
            Self::WeakSignature => {
                "issue the certificate anew, with SHA-256 and RSA of 2048 bits or more, or ECDSA"
            }
            Self::UnreadableCertificate | Self::NoCertificate => {
                "look at the certificate of the server's listener (tls_cert_file): openssl s_client -connect HOST:PORT -showcerts"
            }
            Self::WantsClientCertificate => {
                "set vault.client_cert_file and vault.client_key_file, or turn tls_require_and_verify_client_cert of the server's listener off"
            }
            Self::RefusesClientCertificate { .. } => {
                "look at the certificate in vault.client_cert_file, and let the server's listener trust its authority (tls_client_ca_file)"
            }
            Self::NothingInCommon => {
                "the server's listener must offer TLS 1.2 or 1.3 (tls_min_version, tls_max_version, tls_cipher_suites)"
            }
            Self::UnknownName => {
                "use a name in vault.addresses that the server knows, or set vault.server_name to it"
            }
        }
    }
}

/// The error of TLS that this one is, or was made from. An I/O error does not name the one inside it as its source, and may
/// hold another I/O error.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    match error.downcast_ref::<io::Error>() {
        Some(io) => tls_error(io.get_ref()?),
        None => error.downcast_ref::<Error>(),
    }
}

#[cfg(test)]
#[path = "tls_fault_tests.rs"]
mod tests;
