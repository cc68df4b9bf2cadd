//! Errors of a request without an answer: no connection, no TLS, no time.

use super::words::PROXY_LOGIN;
use crate::http::HttpError;
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::untrusted;
use crate::vault::tls_fault::TlsFault;

/// The error of an HTTP request without an answer. `proxy` is the forward proxy that it went through.
pub(in crate::vault) fn transport(address: &str, proxy: Option<&str>, cause: &HttpError) -> KeyServiceError {
    let text = chain(cause);
    if cause.is_timeout() {
        return timeout(address);
    }
    if let Some((message, remedy)) = proxy.and_then(|proxy| of_proxy(address, proxy, &text)) {
        return KeyServiceError::new(ErrorKind::Unreachable, message, remedy);
    }
    if let Some(fault) = TlsFault::in_chain(cause) {
        let message = match fault {
            // Only here the names are known.
            TlsFault::WrongName { .. } => format!("{address} {} ({text})", fault.what()),
            _ => format!("{address} {}", fault.what()),
        };
        return KeyServiceError::new(ErrorKind::Unreachable, message, fault.remedy());
    }
    let (message, remedy) = if text.contains("failed to lookup") || text.contains("dns error") {
        (format!("the name in {address} is not known to DNS"), "check vault.addresses and this node's DNS")
    } else {
        (
            format!("{address} cannot be reached: {text}"),
            "check that Vault runs and that this node may reach it",
        )
    };
    KeyServiceError::new(ErrorKind::Unreachable, message, remedy)
}

/// The message and the remedy, when the forward proxy was not passed. The texts are those of the HTTP library.
fn of_proxy(address: &str, proxy: &str, text: &str) -> Option<(String, &'static str)> {
    if text.contains("proxy authorization required") {
        return Some((
            format!("the proxy {proxy} wants a user and a password for {address} (407)"),
            PROXY_LOGIN,
        ));
    }
    if text.contains("failed to create underlying connection") {
        return Some((
            format!("the proxy {proxy}, on the way to {address}, cannot be reached: {text}"),
            "check vault.proxy, that the proxy runs, and that this node may reach it",
        ));
    }
    text.contains("tunnel error").then(|| {
        (
            format!("the proxy {proxy} makes no connection to {address}: {text}"),
            "the proxy must accept its user (vault.proxy_password_file), allow CONNECT to this host and port, and reach it: see the proxy's log; or name the host in vault.proxy_except",
        )
    })
}

/// The error of a request that was not answered in time.
pub(in crate::vault) fn timeout(address: &str) -> KeyServiceError {
    KeyServiceError::new(
        ErrorKind::Unreachable,
        format!("{address} did not answer in time"),
        "look for a firewall, a server that hangs, or a slow network",
    )
}

/// The causes of an error, without URLs: a query may hold a secret. They may quote the server's certificate.
fn chain(error: &dyn std::error::Error) -> String {
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
    if text.is_empty() { "the connection failed".into() } else { untrusted::text(&text) }
}
