//! How each method logs in: a path and a body made of credentials that are read anew each time.
//!
//! Must not send anything by itself but what unwrapping a secret-id needs, nor know a token's life.

mod approle;
mod cert;
mod jwt;
mod token;
mod userpass;

use std::path::PathBuf;

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::client::Client;
use crate::clock::Deadline;
use crate::config::secret::SecretError;
use crate::config::vault::{Method, Vault};
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::secret::{Fingerprint, Secret};

/// What a method contributes to a login.
pub(super) enum Credentials {
    /// A token that somebody else made.
    Token(Secret),
    /// A request to the login endpoint.
    Login {
        /// Below `/v1/`.
        path: String,
        /// JSON.
        body: Zeroizing<Vec<u8>>,
    },
}

/// A login method.
#[async_trait]
pub(super) trait LoginMethod: Send + Sync {
    /// The method's name in the configuration.
    fn name(&self) -> &'static str;

    /// Tells the same credentials from new ones, after a refusal. Sends nothing.
    fn fingerprint(&self) -> Result<Fingerprint, KeyServiceError>;

    /// Whether it can make a new token; a token that somebody else made only changes with its file.
    fn logs_in(&self) -> bool {
        true
    }

    /// Reads the credentials.
    async fn credentials(&self, client: &Client, deadline: Deadline) -> Result<Credentials, KeyServiceError>;

    /// The files that hold credentials: a change of one of them is worth a login at once.
    fn files(&self) -> Vec<PathBuf>;

    /// What an operator does when the login is refused.
    fn remedy(&self) -> String;
}

/// The method that the configuration names.
pub(super) fn method(vault: &Vault) -> Box<dyn LoginMethod> {
    let mount = vault.auth.mount.clone();
    match vault.auth.method.clone() {
        Method::Token(source) => Box::new(token::TokenFile { source }),
        Method::AppRole { role_id, secret_id, wrapped } => {
            let namespace = vault.auth_namespace.clone();
            Box::new(approle::AppRole::new(mount, namespace, role_id, secret_id, wrapped))
        }
        Method::Userpass { username, password } => Box::new(userpass::Userpass { mount, username, password }),
        Method::Cert { role } => {
            let files = vault.tls.client.clone().map(|(certificate, key)| vec![certificate, key]);
            Box::new(cert::Cert { mount, role, files: files.unwrap_or_default() })
        }
        Method::Jwt { role, jwt } => Box::new(jwt::Jwt { name: "jwt", mount, role, source: jwt }),
        Method::Kubernetes { role, jwt } => {
            Box::new(jwt::Jwt { name: "kubernetes", mount, role: Some(role), source: jwt })
        }
    }
}

/// A JSON object of texts, in one allocation that is zeroized.
fn body(fields: &[(&str, &str)]) -> Result<Zeroizing<Vec<u8>>, KeyServiceError> {
    // Escapes take at most six bytes a character.
    let size: usize = fields.iter().map(|(name, value)| 8 + 6 * (name.len() + value.len())).sum();
    let mut body = Zeroizing::new(Vec::with_capacity(size));
    let object: std::collections::BTreeMap<_, _> = fields.iter().copied().collect();
    serde_json::to_writer(&mut *body, &object).map_err(|_| {
        KeyServiceError::new(
            ErrorKind::Internal,
            "the login request cannot be written as JSON",
            "report this as a bug",
        )
    })?;
    Ok(body)
}

impl From<SecretError> for KeyServiceError {
    fn from(error: SecretError) -> Self {
        let remedy = error.remedy.clone();
        Self::new(ErrorKind::CredentialsUnreadable, error.to_string(), remedy)
    }
}
