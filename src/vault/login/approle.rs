//! `approle`: a role-id, and a secret-id unless the role wants none. The secret-id may be wrapped: then it is unwrapped
//! once.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use hyper::Method;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{BareRequests, Credentials, DENIED, LoginMethod, body, read};
use crate::clock::Deadline;
use crate::config::secret::{RoleId, SecretSource};
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::secret::{Fingerprint, Secret};
use crate::untrusted;
use crate::vault::answer::CallError;
use crate::vault::client::Client;
use crate::vault::transport::Request;

pub(super) struct AppRole {
    mount: String,
    namespace: String,
    role_id: RoleId,
    secret_id: Option<SecretSource>,
    wrapped: bool,
    /// The unwrapped secret-id, and the fingerprint of its wrapping token. A wrapping token can be used only once.
    unwrapped: Mutex<Option<(Fingerprint, Secret)>>,
}

const LOOKUP: &str = "sys/wrapping/lookup";
const UNWRAP: &str = "sys/wrapping/unwrap";

#[derive(Deserialize)]
struct Lookup {
    creation_path: String,
}

#[derive(Deserialize)]
struct Unwrapped {
    secret_id: Zeroizing<String>,
}

/// Whether `path` makes secret-ids of a role of this mount: `auth/MOUNT/role/ROLE/secret-id`, and nothing before or
/// after it but the namespace of the login. Everybody may write below a path of his own, such as `cubbyhole/`, and wrap
/// the answer.
fn makes_secret_id(path: &str, namespace: &str, mount: &str) -> bool {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = match namespace.trim_matches('/') {
        "" => path,
        namespace => path.strip_prefix(namespace).and_then(|below| below.strip_prefix('/')).unwrap_or(path),
    };
    let role = path
        .strip_prefix("auth/")
        .and_then(|path| path.strip_prefix(mount.trim_matches('/')))
        .and_then(|path| path.strip_prefix("/role/"))
        .and_then(|path| path.strip_suffix("/secret-id"));
    role.is_some_and(|role| !role.is_empty() && !role.contains('/'))
}

impl AppRole {
    pub(super) fn new(
        mount: String,
        namespace: String,
        role_id: RoleId,
        secret_id: Option<SecretSource>,
        wrapped: bool,
    ) -> Self {
        Self { mount, namespace, role_id, secret_id, wrapped, unwrapped: Mutex::default() }
    }

    /// Reads the role-id and the secret-id.
    async fn read(&self, client: &Client) -> Result<(Zeroizing<String>, Option<Secret>), KeyServiceError> {
        let (role_id, secret_id) = (self.role_id.clone(), self.secret_id.clone());
        let work = move || Ok((role_id.read()?, secret_id.map(|source| source.read()).transpose()?));
        read(client, &self.files(), work).await
    }

    /// Looks up what the wrapping token wraps, and unwraps it only if that is a secret-id of this mount. An attacker
    /// who has unwrapped the real secret-id may have left another token in its place.
    async fn unwrap(
        &self,
        wrapping: Secret,
        client: &Client,
        deadline: Deadline,
    ) -> Result<Secret, KeyServiceError> {
        let fingerprint = wrapping.fingerprint();
        let unwrapped = self.unwrapped.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, secret)) = unwrapped.filter(|(of, _)| *of == fingerprint) {
            return Ok(secret);
        }
        let (address, _) = self.look_up(&wrapping, client, deadline).await?;
        // Sent once, to the address that has just answered: when the answer is lost, the token is used up.
        let request = self.request(UNWRAP, Some(&wrapping), None);
        let answer = client.once(address, &request, deadline).await;
        let answer = answer.map_err(|error| Self::refused(error, UNWRAP))?;
        let secret = Secret::new(answer.data::<Unwrapped>()?.secret_id.as_str().to_owned());
        *self.unwrapped.lock().unwrap_or_else(PoisonError::into_inner) = Some((fingerprint, secret.clone()));
        tracing::info!("the wrapped secret-id was unwrapped");
        Ok(secret)
    }

    fn request<'a>(
        &'a self,
        path: &'a str,
        token: Option<&'a Secret>,
        body: Option<&'a Zeroizing<Vec<u8>>>,
    ) -> Request<'a> {
        Request { namespace: &self.namespace, token, body, ..Request::new(Method::POST, path) }
    }

    /// Looks up what the wrapping token wraps: the address that answered, and the path that made it. That does not use
    /// the token up.
    async fn look_up(
        &self,
        wrapping: &Secret,
        client: &Client,
        deadline: Deadline,
    ) -> Result<(usize, String), KeyServiceError> {
        let lookup = body(&[("token", wrapping.expose())])?;
        let answer = client.call(&self.request(LOOKUP, None, Some(&lookup)), deadline).await;
        let answer = answer.map_err(|error| Self::refused(error, LOOKUP))?;
        let lookup: Lookup = answer.data()?;
        let path = untrusted::text(&lookup.creation_path);
        if !makes_secret_id(&lookup.creation_path, &self.namespace, &self.mount) {
            return Err(KeyServiceError::new(
                ErrorKind::CredentialsRefused,
                format!(
                    "the wrapping token was not made for a secret-id of {}: it was made by {path}",
                    self.mount
                ),
                "treat this as an attack until proven otherwise: revoke the secret-id, then deliver a new wrapped one",
            ));
        }
        Ok((answer.address, path))
    }

    /// The path that made the wrapping token in the file.
    pub(super) async fn wrapped_path(
        &self,
        client: &Client,
        deadline: Deadline,
    ) -> Result<String, KeyServiceError> {
        let (_, wrapping) = self.read(client).await?;
        let no_file = || {
            KeyServiceError::new(
                ErrorKind::CredentialsUnreadable,
                "no secret-id is configured, so there is no wrapping token",
                "set vault.auth.secret_id_file",
            )
        };
        let wrapping = wrapping.ok_or_else(no_file)?;
        self.look_up(&wrapping, client, deadline).await.map(|(_, path)| path)
    }

    /// The error of a refused wrapping call. A wrapping token can be used only once.
    fn refused(error: CallError, path: &str) -> KeyServiceError {
        match error {
            CallError::Failed(error) => error,
            CallError::Refused(refusal) => refusal.of_login(
                &format!("unwrapping the secret-id ({path})"),
                "a wrapping token can be used once and expires soon: deliver a new one (vault write -wrap-ttl=… -f auth/approle/role/…/secret-id). If none of your nodes used it, somebody else did: revoke the secret-id",
            ),
        }
    }
}

#[async_trait]
impl LoginMethod for AppRole {
    fn name(&self) -> &'static str {
        "approle"
    }

    /// The fingerprint of role-id and secret-id together: a corrected role-id is also a reason to log in again.
    async fn fingerprint(&self, client: &Client) -> Result<Fingerprint, KeyServiceError> {
        let (role_id, secret_id) = self.read(client).await?;
        let secret_id = secret_id.as_ref().map_or("", Secret::expose);
        Ok(Secret::new(format!("{}\n{secret_id}", *role_id)).fingerprint())
    }

    async fn credentials(&self, client: &Client, deadline: Deadline) -> Result<Credentials, KeyServiceError> {
        let (role_id, mut secret_id) = self.read(client).await?;
        if let Some(wrapping) = secret_id.take_if(|_| self.wrapped) {
            secret_id = Some(self.unwrap(wrapping, client, deadline).await?);
        }
        let body = match &secret_id {
            Some(secret_id) => body(&[("role_id", &role_id), ("secret_id", secret_id.expose())])?,
            None => body(&[("role_id", &role_id)])?,
        };
        Ok(Credentials::Login { path: format!("auth/{}/login", self.mount), body })
    }

    fn files(&self) -> Vec<PathBuf> {
        self.role_id.path().into_iter().chain(self.secret_id.iter().filter_map(SecretSource::path)).collect()
    }

    fn denied_remedy(&self) -> String {
        DENIED.to_owned()
    }

    fn locks(&self) -> bool {
        true
    }

    async fn bare_requests(&self, client: &Client) -> Option<BareRequests> {
        let path = format!("auth/{}/login", self.mount);
        let nameless = (path.clone(), body(&[]).ok()?);
        if self.secret_id.is_none() {
            // The role-id alone is the whole login.
            return Some(BareRequests { nameless, secretless: None });
        }
        let (role_id, _) = self.read(client).await.ok()?;
        Some(BareRequests { nameless, secretless: Some((path, body(&[("role_id", &role_id)]).ok()?)) })
    }

    fn remedy(&self) -> String {
        let Some(source) = &self.secret_id else {
            return format!(
                "check the role-id and vault.auth.mount. The agent sends no secret-id: if the role wants one, set vault.auth.secret_id_file; if it does not, write the role with bind_secret_id=false and bind it to the networks of the nodes (vault write auth/{}/role/ROLE bind_secret_id=false token_bound_cidrs=…)",
                self.mount
            );
        };
        let file = source.path().map_or("FILE".to_owned(), |path| path.display().to_string());
        let wrap = if self.wrapped { " -wrap-ttl=1h -field=wrapping_token" } else { " -field=secret_id" };
        format!(
            "check vault.auth.mount and the role-id; write a new secret-id (vault write -f{wrap} auth/{}/role/ROLE/secret-id > {file}): the agent uses it within seconds. After several wrong ones the server locks the role for some minutes, for every node",
            self.mount
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_mounts_own_path_makes_a_secret_id() {
        for good in ["auth/approle/role/kms/secret-id", "/auth/approle/role/kms/secret-id"] {
            assert!(makes_secret_id(good, "", "approle"), "{good}");
            assert!(makes_secret_id(good, "admin", "/approle/"), "{good}: the server left the namespace out");
        }
        assert!(makes_secret_id("admin/team/auth/a/b/role/kms/secret-id", "/admin/team/", "a/b"));
        for forged in [
            "cubbyhole/auth/approle/role/kms/secret-id",
            "secret/data/auth/approle/role/kms/secret-id",
            "other/auth/approle/role/kms/secret-id",
            "auth/approle/role/kms/x/secret-id",
            "auth/approle/role//secret-id",
            "auth/approle/role/secret-id",
            "auth/approle/role/kms/secret-id/x",
            "auth/approle/role/kms/secret-id/lookup",
            "auth/approle2/role/kms/secret-id",
            "auth/x/auth/approle/role/kms/secret-id",
            "//auth/approle/role/kms/secret-id",
            "auth/approle/role/kms/secret-id\n",
            "",
        ] {
            assert!(!makes_secret_id(forged, "", "approle"), "{forged}");
            assert!(!makes_secret_id(forged, "admin", "approle"), "{forged}");
        }
    }
}
