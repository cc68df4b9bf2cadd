//! What the servers' answers mean, by status and text. The texts are those of OpenBao 2.x (observed) and of Vault's
//! source. Where a text is not known, the status decides.

use serde::Deserialize;

use crate::key_service::{ErrorKind, KeyServiceError};

/// An answer in the server's own JSON that refuses the request (400, 403, 404 and others).
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub status: u16,
    /// The server's `errors`, joined; at most a few hundred bytes.
    pub text: String,
    pub path: String,
    /// The index of the address that answered.
    pub address: usize,
    pub address_name: String,
}

impl Refusal {
    /// Whether an administrator locked the namespace. That is a refusal, although the status is 503.
    fn is_locked_namespace(&self) -> bool {
        is_locked(&self.text)
    }

    fn says(&self, words: &str) -> bool {
        self.text.contains(words)
    }

    fn error(&self, kind: ErrorKind, what: &str, remedy: impl Into<String>) -> KeyServiceError {
        let text = match (self.text.as_str(), self.status) {
            ("", 404) => "not found",
            ("", _) => "no reason given",
            (text, _) => text,
        };
        let message = format!("{what}: {} answered {}: {text}", self.address_name, self.status);
        KeyServiceError::new(kind, message, remedy.into())
    }

    /// The error of a refused Transit call. `what` says what was attempted, with the path.
    pub(super) fn of_transit(&self, what: &str) -> KeyServiceError {
        let path = &self.path;
        let (kind, remedy) = match self.status {
            403 => (
                ErrorKind::Denied,
                format!("grant the capability on {path} in the token's policy, and check that the key exists: if the policy grants update without create, Vault also answers 403 for a missing key"),
            ),
            404 => (ErrorKind::NotFound, format!("check vault.namespace, vault.transit.mount and vault.transit.key: nothing is at {path}; if the key was deleted, restore it from a backup")),
            _ if self.is_locked_namespace() => {
                (ErrorKind::Denied, "unlock the namespace: vault namespace unlock".into())
            }
            400 if self.says("higher than the latest key version") || self.says("version is too new") => {
                (ErrorKind::VersionAhead, "if this stays, the key was rolled back: see kms-plugin accept-key".into())
            }
            400 if self.says("less than the minimum encryption key version") || self.says("no such key version") => (
                ErrorKind::VersionGone,
                "the key was rotated and its min_encryption_version raised; the next call uses the newer version".into(),
            ),
            400 if self.says("too old") => (
                ErrorKind::VersionGone,
                "lower min_decryption_version of the Transit key until all data is rewritten under a newer version".into(),
            ),
            400 if self.says("key not found") || self.says("unknown key") => {
                (ErrorKind::NotFound, format!("check vault.transit.key: nothing is at {path}; restore the key from a backup if it was deleted"))
            }
            400 if self.says("soft") && self.says("delet") => {
                (ErrorKind::SoftDeleted, "the key is soft-deleted; restore it (vault write -f transit/keys/NAME/soft-delete-restore)".into())
            }
            400 => (ErrorKind::BadCiphertext, "the ciphertext is damaged, or was made by another key".into()),
            _ => (ErrorKind::Internal, "see the server's log for this time".into()),
        };
        self.error(kind, what, remedy)
    }

    /// The error of a refused login.
    pub(super) fn of_login(&self, what: &str, remedy: &str) -> KeyServiceError {
        match self.status {
            _ if self.is_locked_namespace() => {
                self.error(ErrorKind::Denied, what, "unlock the namespace: vault namespace unlock")
            }
            // The credentials were not checked: they may be sent again.
            404 => {
                let remedy = "check vault.auth_namespace and vault.auth.mount: no login method is there";
                self.error(ErrorKind::Denied, what, remedy)
            }
            _ => self.error(ErrorKind::CredentialsRefused, what, remedy),
        }
    }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<String>,
}

/// The text of an error's body, or `None` when the body is not the server's JSON.
pub(super) fn server_text(body: &[u8]) -> Option<String> {
    let parsed: Errors = serde_json::from_slice(body).ok()?;
    // Go formats a list of one error with a heading and a bullet, which hold no information.
    let text = parsed.errors.join("; ").replace(['\n', '\t'], " ");
    let mut text =
        text.trim().trim_start_matches("1 error occurred:").trim_start_matches([' ', '*']).to_owned();
    if let Some((end, _)) = text.char_indices().nth(300) {
        text.truncate(end);
        text.push('…');
    }
    Some(text)
}

/// Whether a body begins as a JSON object, or is empty (status 204).
pub(super) fn is_json(body: &[u8]) -> bool {
    body.is_empty() || body.trim_ascii_start().starts_with(b"{")
}

fn is_locked(text: &str) -> bool {
    text.contains("namespace") && text.contains("locked")
}

/// The error of an answer that is not Vault's.
pub(super) fn not_vault(address: &str) -> KeyServiceError {
    KeyServiceError::new(
        ErrorKind::NotVault,
        format!("{address} answered in a form that is not Vault's"),
        "check vault.addresses: another server or a proxy may answer there",
    )
}

/// The error of a status that says that the server is unavailable or busy. `None` for a refusal. `text` is the
/// server's own text.
pub(super) fn outage(address: &str, status: u16, text: Option<&str>) -> Option<KeyServiceError> {
    let unreachable =
        |message: String, remedy: &'static str| KeyServiceError::new(ErrorKind::Unreachable, message, remedy);
    let not_vault =
        |message: String, remedy: &'static str| KeyServiceError::new(ErrorKind::NotVault, message, remedy);
    match (status, text) {
        (400, None) => Some(not_vault(
            format!(
                "{address} answered 400, but not in Vault's form: it may accept only HTTPS, or be another server"
            ),
            "check the scheme (https://) and the port in vault.addresses",
        )),
        (472, _) => Some(unreachable(
            format!("{address} is a disaster-recovery secondary (472) and serves no keys"),
            "set vault.addresses to the addresses of the primary cluster",
        )),
        (_, None) if status >= 300 => Some(not_vault(
            format!(
                "{address} answered {status}, but not in Vault's form: a proxy or another server answered"
            ),
            "check vault.addresses, and proxies between this node and Vault",
        )),
        (503, Some(text)) if text.contains("sealed") => Some(KeyServiceError::new(
            ErrorKind::Sealed,
            format!("{address} is sealed"),
            "unseal it: vault operator unseal",
        )),
        (_, Some(text)) if is_locked(text) => None,
        (429, Some(text)) => Some(KeyServiceError::new(
            ErrorKind::Throttled,
            format!("{address} asks to slow down (429): {text}"),
            "raise the rate limit quota of this mount, or find other clients that use it up",
        )),
        (412, Some(_)) => Some(unreachable(
            format!("{address} has not replicated this agent's login yet (412)"),
            "wait; if this stays, check the replication of the Vault cluster",
        )),
        (501.., Some(text)) => Some(unreachable(
            format!("{address} answered {status}: {text}"),
            "check the state of that server: vault status",
        )),
        (500, Some(text)) => {
            Some(unreachable(format!("{address} answered 500: {text}"), "see the server's log for this time"))
        }
        _ => None,
    }
}

/// The error of an HTTP request without an answer.
pub(super) fn transport(address: &str, cause: &reqwest::Error) -> KeyServiceError {
    let text = chain(&cause);
    let (message, remedy) = if cause.is_timeout() {
        (format!("{address} did not answer in time"), "look for a firewall, or a server that hangs")
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

/// The causes of an error, without URLs: a query may hold a secret.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, text: &str) -> Refusal {
        Refusal {
            status,
            text: text.into(),
            path: "transit/keys/k".into(),
            address: 0,
            address_name: "https://vault:8200".into(),
        }
    }

    #[test]
    fn transit_refusals_by_their_text() {
        let kind = |status, text| refusal(status, text).of_transit("decrypt").kind();
        assert_eq!(kind(403, "permission denied"), ErrorKind::Denied);
        assert_eq!(kind(404, ""), ErrorKind::NotFound);
        assert_eq!(kind(400, "encryption key not found"), ErrorKind::NotFound);
        assert_eq!(
            kind(400, "ciphertext or signature version is disallowed by policy (too old)"),
            ErrorKind::VersionGone
        );
        assert_eq!(
            kind(400, "requested version for encryption is higher than the latest key version"),
            ErrorKind::VersionAhead
        );
        assert_eq!(kind(400, "invalid ciphertext: version is too new"), ErrorKind::VersionAhead);
        assert_eq!(
            kind(400, "requested version for encryption is less than the minimum encryption key version"),
            ErrorKind::VersionGone
        );
        let locked = "API access to this namespace has been locked by an administrator";
        assert_eq!(kind(503, locked), ErrorKind::Denied);
        assert_eq!(refusal(503, locked).of_login("login", "").kind(), ErrorKind::Denied);
        assert_eq!(kind(400, "cipher: message authentication failed"), ErrorKind::BadCiphertext);
    }

    #[test]
    fn statuses_that_are_no_refusal() {
        let kind = |status, text| outage("a", status, text).map(|error| error.kind());
        assert_eq!(kind(503, Some("Vault is sealed")), Some(ErrorKind::Sealed));
        assert_eq!(kind(503, Some("")), Some(ErrorKind::Unreachable));
        assert_eq!(kind(429, Some("rate limit quota exceeded")), Some(ErrorKind::Throttled));
        assert_eq!(kind(500, Some("internal error")), Some(ErrorKind::Unreachable));
        assert_eq!(kind(403, None), Some(ErrorKind::NotVault), "a proxy's 403 is not a refusal");
        assert_eq!(kind(400, None), Some(ErrorKind::NotVault));
        assert_eq!(kind(403, Some("permission denied")), None);
        assert_eq!(kind(200, None), None);
        let locked = "API access to this namespace has been locked by an administrator";
        assert_eq!(kind(503, Some(locked)), None, "a locked namespace is a refusal");
    }

    #[test]
    fn a_servers_text_is_bounded_and_on_one_line() {
        let body =
            serde_json::json!({ "errors": ["1 error occurred:\n\t* permission denied\n\n"] }).to_string();
        assert_eq!(server_text(body.as_bytes()).as_deref(), Some("permission denied"));
        let long = serde_json::json!({ "errors": ["é".repeat(4000)] }).to_string();
        assert_eq!(server_text(long.as_bytes()).map(|text| text.chars().count()), Some(301));
        assert_eq!(server_text(b"<html>forbidden</html>"), None);
    }
}
