//! `approle`: a role-id and a secret-id; the secret-id may come wrapped, to be unwrapped once.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::{Credentials, LoginMethod, body};
use crate::backend::{BackendError, ErrorKind};
use crate::clock::Deadline;
use crate::config::secret::{RoleId, SecretSource};
use crate::secret::{Fingerprint, Secret};
use crate::vault::client::{Answer, CallError, Client, Request, not_vault};

pub(super) struct AppRole {
    mount: String,
    namespace: String,
    role_id: RoleId,
    secret_id: SecretSource,
    wrapped: bool,
    /// The secret-id behind a wrapping token, which opens only once, with that token's fingerprint.
    unwrapped: Mutex<Option<(Fingerprint, Secret)>>,
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize)]
struct Lookup {
    creation_path: String,
}

#[derive(Deserialize)]
struct Unwrapped {
    secret_id: Zeroizing<String>,
}

impl AppRole {
    pub(super) fn new(
        mount: String,
        namespace: String,
        role_id: RoleId,
        secret_id: SecretSource,
        wrapped: bool,
    ) -> Self {
        Self { mount, namespace, role_id, secret_id, wrapped, unwrapped: Mutex::default() }
    }

    /// Looks up what the wrapping token was made for, and opens it only if that is a secret-id of
    /// this mount: anything else may have been put there by somebody who already opened the real one.
    async fn unwrap(
        &self,
        wrapping: Secret,
        client: &Client,
        deadline: Deadline,
    ) -> Result<Secret, BackendError> {
        let fingerprint = wrapping.fingerprint();
        let kept = self.unwrapped.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, secret)) = kept.filter(|(of, _)| *of == fingerprint) {
            return Ok(secret);
        }
        let lookup = body(&[("token", wrapping.expose())])?;
        let answer = self.post("sys/wrapping/lookup", None, Some(&lookup), client, deadline).await?;
        let lookup: Lookup = parse(&answer)?;
        let path = lookup.creation_path.trim_start_matches('/');
        let expected = format!("auth/{}/role/", self.mount);
        if !path.contains(&expected) || !path.ends_with("/secret-id") {
            return Err(BackendError::new(
                ErrorKind::CredentialsRefused,
                format!(
                    "the wrapping token was not made for a secret-id of {}: it was made by {path}",
                    self.mount
                ),
                "treat this as an attack until proven otherwise: revoke the secret-id, then deliver a new wrapped one",
            ));
        }
        let answer = self.post("sys/wrapping/unwrap", Some(&wrapping), None, client, deadline).await?;
        let secret = Secret::new(parse::<Unwrapped>(&answer)?.secret_id.as_str().to_owned());
        *self.unwrapped.lock().unwrap_or_else(PoisonError::into_inner) = Some((fingerprint, secret.clone()));
        tracing::info!("the wrapped secret-id was unwrapped");
        Ok(secret)
    }

    async fn post(
        &self,
        path: &str,
        token: Option<&Secret>,
        body: Option<&Zeroizing<Vec<u8>>>,
        client: &Client,
        deadline: Deadline,
    ) -> Result<Answer, BackendError> {
        let request =
            Request { method: Method::POST, path, namespace: &self.namespace, token, index: None, body };
        client.call(&request, deadline).await.map_err(|error| match error {
            CallError::Failed(error) => error,
            CallError::Refused(refusal) => refusal.of_login(
                &format!("unwrapping the secret-id ({path})"),
                "a wrapping token opens once and expires soon: deliver a new one (vault write -wrap-ttl=… -f auth/approle/role/…/secret-id). If nobody here opened it, somebody else did: revoke the secret-id",
            ),
        })
    }
}

fn parse<T: DeserializeOwned>(answer: &Answer) -> Result<T, BackendError> {
    let parsed: Data<T> = serde_json::from_slice(&answer.body).map_err(|_| not_vault("the server"))?;
    Ok(parsed.data)
}

#[async_trait]
impl LoginMethod for AppRole {
    fn name(&self) -> &'static str {
        "approle"
    }

    async fn credentials(&self, client: &Client, deadline: Deadline) -> Result<Credentials, BackendError> {
        let role_id = self.role_id.read()?;
        let mut secret_id = self.secret_id.read()?;
        if self.wrapped {
            secret_id = self.unwrap(secret_id, client, deadline).await?;
        }
        // Of both: a corrected role-id is a reason to try again, too.
        let both = Secret::new(format!("{role_id}\n{}", secret_id.expose()));
        Ok(Credentials::Login {
            path: format!("auth/{}/login", self.mount),
            body: body(&[("role_id", &role_id), ("secret_id", secret_id.expose())])?,
            fingerprint: both.fingerprint(),
        })
    }

    fn files(&self) -> Vec<PathBuf> {
        self.role_id.path().into_iter().chain(self.secret_id.path()).collect()
    }

    fn remedy(&self) -> String {
        format!(
            "check the role-id, write a new secret-id into its file (vault write -f auth/{}/role/…/secret-id); it is taken up within seconds. After several wrong ones the role is locked for some minutes, for every node",
            self.mount
        )
    }
}
