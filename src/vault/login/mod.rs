//! The login methods: each builds a path and a body from credentials, which it reads again for each login.
//!
//! Must not send anything, except to unwrap a secret-id. Must not know the lifetime of tokens.

mod approle;
mod cert;
mod jwt;
mod jwt_svid;
mod none;
mod token;
mod userpass;

use std::path::PathBuf;

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::client::Client;
use crate::clock::Deadline;
use crate::config::secret::{SecretError, SecretSource};
use crate::config::vault::{Method, Vault};
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::secret::{Fingerprint, Secret};
use crate::spiffe::{SpiffeError, WorkloadApi};

/// The credentials for one login.
pub(super) enum Credentials {
    /// A token that was created elsewhere: no login is needed.
    Token(Secret),
    /// The proxy at the address has a token, and adds it to each request.
    OfTheProxy,
    /// A request to the login endpoint.
    Login {
        /// Below `/v1/`.
        path: String,
        /// JSON.
        body: Zeroizing<Vec<u8>>,
    },
}

/// A login without a secret: the path below `/v1/`, and the body.
pub(super) type BareLogin = (String, Zeroizing<Vec<u8>>);

/// Logins without a secret. Their answers show why a login was refused. A server counts none of them as wrong.
pub(super) struct BareRequests {
    /// It names nobody.
    pub nameless: BareLogin,
    /// It names the login; `None` where a server would count it.
    pub secretless: Option<BareLogin>,
}

/// A login method.
#[async_trait]
pub(super) trait LoginMethod: Send + Sync {
    /// The method's name in the configuration.
    fn name(&self) -> &'static str;

    /// A hash of the current credentials. After a refusal, it shows whether they have changed. Sends nothing.
    async fn fingerprint(&self, client: &Client) -> Result<Fingerprint, KeyServiceError>;

    /// Whether it can get a new token. A token that was created elsewhere changes only with its file.
    fn logs_in(&self) -> bool {
        true
    }

    /// Whether the agent has a token at all: a proxy may add its own to each request.
    fn has_token(&self) -> bool {
        true
    }

    /// Reads the credentials.
    async fn credentials(&self, client: &Client, deadline: Deadline) -> Result<Credentials, KeyServiceError>;

    /// The files that hold credentials. A change of one of them causes a login.
    fn files(&self) -> Vec<PathBuf>;

    /// What an administrator does when the login is refused.
    fn remedy(&self) -> String;

    /// What an administrator does when the credentials are right, and the login is denied all the same.
    fn denied_remedy(&self) -> String {
        self.remedy()
    }

    /// Whether a server locks a login of this method after some wrong ones, for every node that shares it.
    fn locks(&self) -> bool {
        false
    }

    /// The logins without a secret, where the method has them.
    async fn bare_requests(&self, _client: &Client) -> Option<BareRequests> {
        None
    }
}

/// The method that the configuration names.
pub(super) fn method(vault: &Vault) -> Box<dyn LoginMethod> {
    let mount = vault.auth.mount.clone();
    match vault.auth.method.clone() {
        Method::None => Box::new(none::NoLogin),
        Method::Token(source) => Box::new(token::TokenFile { source }),
        Method::AppRole { role_id, secret_id, wrapped } => {
            let namespace = vault.auth_namespace.clone();
            Box::new(approle::AppRole::new(mount, namespace, role_id, secret_id, wrapped))
        }
        Method::Userpass { username, password } => Box::new(userpass::Userpass { mount, username, password }),
        Method::Cert { role } => {
            let files = vault.tls.client.clone().map(|(certificate, key)| vec![certificate, key]);
            let by_svid = vault.tls.spiffe.is_some();
            Box::new(cert::Cert { mount, role, files: files.unwrap_or_default(), by_svid })
        }
        Method::JwtSvid { role, spiffe, audience } => {
            let api = WorkloadApi::new(&spiffe.socket, spiffe.id.as_deref());
            Box::new(jwt_svid::JwtSvid { mount, role, api, audience })
        }
        Method::Jwt { role, jwt } => Box::new(jwt::Jwt { name: "jwt", mount, role, source: jwt }),
        Method::Kubernetes { role, jwt } => {
            Box::new(jwt::Jwt { name: "kubernetes", mount, role: Some(role), source: jwt })
        }
    }
}

/// The path that made the wrapping token of a wrapped secret-id. That does not use the token up.
pub(super) async fn look_up_wrapping(
    vault: &Vault,
    client: &Client,
    deadline: Deadline,
) -> Result<String, KeyServiceError> {
    match vault.auth.method.clone() {
        Method::AppRole { role_id, secret_id, wrapped } => {
            let (mount, namespace) = (vault.auth.mount.clone(), vault.auth_namespace.clone());
            let login = approle::AppRole::new(mount, namespace, role_id, secret_id, wrapped);
            login.wrapped_path(client, deadline).await
        }
        _ => Err(KeyServiceError::new(
            ErrorKind::Internal,
            "this method has no wrapping token",
            "report this as a bug",
        )),
    }
}

/// The remedy of a login that is denied although its credentials are right. A server locks such logins, and says 403 for
/// a lock-out, too: that has another remedy.
const DENIED: &str = "the credentials are right, and the policies are not the reason: see whether the entity of this login is disabled (vault read identity/entity/id/ID), and whether a rule of Vault Enterprise (Sentinel) denies it";

/// Reads credentials outside the runtime's threads. `files` is for the text of the error when the file system hangs.
async fn read<T: Send + 'static>(
    client: &Client,
    files: &[PathBuf],
    work: impl FnOnce() -> Result<T, KeyServiceError> + Send + 'static,
) -> Result<T, KeyServiceError> {
    client.files.run(work).await.unwrap_or_else(|cause| {
        let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        Err(KeyServiceError::new(
            ErrorKind::CredentialsUnreadable,
            format!("{} cannot be read: {cause}", names.join(" and ")),
            "check the file system of the credential files: ls -l FILE",
        ))
    })
}

/// Reads one secret, like [`read`].
async fn read_secret(client: &Client, source: &SecretSource) -> Result<Secret, KeyServiceError> {
    let files: Vec<_> = source.path().into_iter().collect();
    let source = source.clone();
    read(client, &files, move || Ok(source.read()?)).await
}

/// A JSON object of texts, in one allocation that is zeroized.
fn body(fields: &[(&str, &str)]) -> Result<Zeroizing<Vec<u8>>, KeyServiceError> {
    // An escaped character has at most six bytes.
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

impl From<SpiffeError> for KeyServiceError {
    fn from(error: SpiffeError) -> Self {
        Self::new(ErrorKind::CredentialsUnreadable, error.to_string(), error.remedy)
    }
}

impl From<SecretError> for KeyServiceError {
    fn from(error: SecretError) -> Self {
        let remedy = error.remedy.clone();
        Self::new(ErrorKind::CredentialsUnreadable, error.to_string(), remedy)
    }
}
