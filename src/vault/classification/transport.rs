//! Errors of a request without an answer: no connection, no TLS, no time.

use crate::key_service::{ErrorKind, KeyServiceError};

/// The error of an HTTP request without an answer.
pub(in crate::vault) fn transport(address: &str, cause: &reqwest::Error) -> KeyServiceError {
    let text = chain(&cause);
    let (message, remedy) = if cause.is_timeout() {
        return timeout(address);
    } else if text.contains("UnknownIssuer") || text.contains("BadSignature") {
        (
            format!(
                "{address} presents a certificate of an unknown authority, or of another authority with the same name"
            ),
            "set vault.ca_file to the authority that signed it",
        )
    } else if text.contains("not valid for name") {
        (
            format!("{address} presents a certificate for another name ({text})"),
            "set vault.server_name to a name in the certificate, or use that name in vault.addresses",
        )
    } else if text.contains("certificate expired") || text.contains("not valid yet") {
        (
            format!("{address} presents a certificate that is not valid now"),
            "renew the server's certificate, or set this node's clock",
        )
    } else if text.contains("InvalidContentType") || text.contains("corrupt message") {
        (
            format!("{address} does not speak TLS on this port"),
            "check the scheme and the port in vault.addresses",
        )
    } else if text.contains("failed to lookup") || text.contains("dns error") {
        (format!("the name in {address} is not known to DNS"), "check vault.addresses and this node's DNS")
    } else {
        (
            format!("{address} cannot be reached: {text}"),
            "check that Vault runs and that this node may reach it",
        )
    };
    KeyServiceError::new(ErrorKind::Unreachable, message, remedy)
}

/// The error of a request that was not answered in time.
pub(in crate::vault) fn timeout(address: &str) -> KeyServiceError {
    KeyServiceError::new(
        ErrorKind::Unreachable,
        format!("{address} did not answer in time"),
        "look for a firewall, a server that hangs, or a slow network",
    )
}

/// The causes of an error, without URLs: a query may hold a secret.
pub(in crate::vault) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let added = cause.to_string();
        if !text.contains(&added) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&added);
        }
        next = cause.source();
    }
    if text.is_empty() { "the connection failed".into() } else { text }
}
