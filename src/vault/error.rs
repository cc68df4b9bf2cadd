//! What the servers' answers mean, by status and text. Texts as observed on OpenBao 2.x and in Vault's
//! source; where a text is not known, the status decides.

use serde::Deserialize;

use crate::key_service::{ErrorKind, KeyServiceError};

/// An answer in the server's own JSON that refuses the request (400, 403, 404 and such).
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The server's `errors`, joined; at most a few hundred bytes.
    pub text: String,
    /// What was asked for.
    pub path: String,
    /// Which address answered.
    pub address: usize,
    /// That address's name.
    pub address_name: String,
}

impl Refusal {
    /// Whether an administrator locked the namespace: a denial, although its status is 503.
    fn is_locked_namespace(&self) -> bool {
        is_locked(&self.text)
    }

    fn says(&self, words: &str) -> bool {
        self.text.contains(words)
    }

    fn error(&self, kind: ErrorKind, what: &str, remedy: impl Into<String>) -> KeyServiceError {
        let text = match (self.text.as_str(), self.status) {
            ("", 404) => "there is no such thing",
            ("", _) => "no reason given",
            (text, _) => text,
        };
        let message = format!("{what}: {} answered {}: {text}", self.address_name, self.status);
        KeyServiceError::new(kind, message, remedy.into())
    }

    /// What a refused Transit call means. `what` says what was tried, with the path.
    pub(super) fn of_transit(&self, what: &str) -> KeyServiceError {
        let path = &self.path;
        let (kind, remedy) = match self.status {
            403 => (
                ErrorKind::Denied,
                format!("grant the capability on {path} in the token's policy, and check that the key exists: with update alone a missing key is refused, too"),
            ),
            404 => (ErrorKind::NotFound, format!("check vault.namespace, vault.transit.mount and vault.transit.key: nothing is at {path}; if the key was deleted, restore it from a backup")),
            _ if self.is_locked_namespace() => {
                (ErrorKind::Denied, "unlock the namespace: vault namespace unlock".into())
            }
            400 if self.says("higher than the latest key version") || self.says("version is too new") => {
                (ErrorKind::VersionAhead, "if it stays, the key was rolled back: see kms-plugin accept-key".into())
            }
            400 if self.says("less than the minimum encryption key version") || self.says("no such key version") => (
                ErrorKind::VersionGone,
                "the key was rotated and its min_encryption_version raised: the next call uses the newer version".into(),
            ),
            400 if self.says("too old") => (
                ErrorKind::VersionGone,
                "lower min_decryption_version of the Transit key until all data is written anew under a newer version".into(),
            ),
            400 if self.says("key not found") || self.says("unknown key") => {
                (ErrorKind::NotFound, format!("check vault.transit.key: nothing is at {path}; restore the key from a backup if it was deleted"))
            }
            400 if self.says("soft") && self.says("delet") => {
                (ErrorKind::SoftDeleted, "the key is soft-deleted: bring it back (vault write -f transit/keys/NAME/soft-delete-restore)".into())
            }
            400 => (ErrorKind::BadCiphertext, "the ciphertext is damaged, or was made by another key".into()),
            _ => (ErrorKind::Internal, "look at the server's log for this time".into()),
        };
        self.error(kind, what, remedy)
    }

    /// What a refused login means.
    pub(super) fn of_login(&self, what: &str, remedy: &str) -> KeyServiceError {
        match self.status {
            _ if self.is_locked_namespace() => {
                self.error(ErrorKind::Denied, what, "unlock the namespace: vault namespace unlock")
            }
            // Not the credentials' fault: they may be tried again.
            404 => {
                let remedy = "check vault.auth_namespace and vault.auth.mount: there is nothing to log in to";
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

/// The server's own words in an error's body, or `None` when the body is not the server's JSON.
pub(super) fn server_text(body: &[u8]) -> Option<String> {
    let parsed: Errors = serde_json::from_slice(body).ok()?;
    // Go's list of one error has a heading and a bullet, which say nothing.
    let text = parsed.errors.join("; ").replace(['\n', '\t'], " ");
    let mut text =
        text.trim().trim_start_matches("1 error occurred:").trim_start_matches([' ', '*']).to_owned();
    if let Some((end, _)) = text.char_indices().nth(300) {
        text.truncate(end);
        text.push('…');
    }
    Some(text)
}

/// Whether a body is JSON, or empty as a 204's.
pub(super) fn is_json(body: &[u8]) -> bool {
    body.is_empty() || body.trim_ascii_start().starts_with(b"{")
}

fn is_locked(text: &str) -> bool {
    text.contains("namespace") && text.contains("locked")
}

/// An answer that is not Vault's.
pub(super) fn not_vault(address: &str) -> KeyServiceError {
    KeyServiceError::new(
        ErrorKind::Unreachable,
        format!("{address} answered in a form that is not Vault's"),
        "check vault.addresses: another server or a proxy may be there",
    )
}

/// A status that says the server is away or busy, not that it refuses. `text` is its own words.
pub(super) fn away(address: &str, status: u16, text: Option<&str>) -> Option<KeyServiceError> {
    let unreachable =
        |message: String, remedy: &'static str| KeyServiceError::new(ErrorKind::Unreachable, message, remedy);
    match (status, text) {
        (400, None) => Some(unreachable(
            format!(
                "{address} answered 400 and not in Vault's form: it may speak only HTTPS, or not be Vault"
            ),
            "check the scheme (https://) and the port in vault.addresses",
        )),
        (472, _) => Some(unreachable(
            format!("{address} is a disaster-recovery secondary (472) and serves no keys"),
            "name the addresses of the primary cluster in vault.addresses",
        )),
        (_, None) if status >= 300 => Some(unreachable(
            format!(
                "{address} answered {status} and not in Vault's form: a proxy or another server is in the way"
            ),
            "check vault.addresses and what stands between this node and Vault",
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
            "raise the rate limit quota of this mount, or look for who else uses it",
        )),
        (412, Some(_)) => Some(unreachable(
            format!("{address} has not replicated our login yet (412)"),
            "wait; if it stays, look at the replication of the Vault cluster",
        )),
        (501.., Some(text)) => Some(unreachable(
            format!("{address} answered {status}: {text}"),
            "look at the state of that server: vault status",
        )),
        (500, Some(text)) => Some(unreachable(
            format!("{address} answered 500: {text}"),
            "look at the server's log for this time",
        )),
        _ => None,
    }
}

/// An HTTP exchange that did not come to an answer.
pub(super) fn transport(address: &str, cause: &reqwest::Error) -> KeyServiceError {
    let text = chain(&cause);
    let (message, remedy) = if cause.is_timeout() {
        (format!("{address} did not answer in time"), "look for a firewall or a hanging server on the way")
    } else if text.contains("UnknownIssuer") || text.contains("BadSignature") {
        (
            format!(
                "{address} shows a certificate of an unknown authority, or of another one with the same name"
            ),
            "name the authority that signed it with vault.ca_file",
        )
    } else if text.contains("not valid for name") {
        (
            format!("{address} shows a certificate for another name ({text})"),
            "set vault.server_name to a name in the certificate, or use that name in vault.addresses",
        )
    } else if text.contains("certificate expired") || text.contains("not valid yet") {
        (
            format!("{address} shows a certificate that is not valid now"),
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

/// An error with its causes, without URLs: a query might hold what nobody should read.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.contains(&told) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&told);
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
        let kind = |status, text| away("a", status, text).map(|error| error.kind());
        assert_eq!(kind(503, Some("Vault is sealed")), Some(ErrorKind::Sealed));
        assert_eq!(kind(503, Some("")), Some(ErrorKind::Unreachable));
        assert_eq!(kind(429, Some("rate limit quota exceeded")), Some(ErrorKind::Throttled));
        assert_eq!(kind(500, Some("internal error")), Some(ErrorKind::Unreachable));
        assert_eq!(kind(403, None), Some(ErrorKind::Unreachable), "a proxy's 403 is no denial");
        assert_eq!(kind(400, None), Some(ErrorKind::Unreachable));
        assert_eq!(kind(403, Some("permission denied")), None);
        assert_eq!(kind(200, None), None);
        let locked = "API access to this namespace has been locked by an administrator";
        assert_eq!(kind(503, Some(locked)), None, "a locked namespace is a denial");
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
