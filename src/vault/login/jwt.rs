//! `jwt` and `kubernetes`: a JWT from a file, and a role. Both send the same request, each to its own mount.

use std::path::PathBuf;

use async_trait::async_trait;

use super::{BareRequests, Credentials, LoginMethod, body, read_secret};
use crate::clock::Deadline;
use crate::config::secret::SecretSource;
use crate::key_service::KeyServiceError;
use crate::secret::Fingerprint;
use crate::vault::client::Client;

pub(super) struct Jwt {
    pub(super) name: &'static str,
    pub(super) mount: String,
    pub(super) role: Option<String>,
    pub(super) source: SecretSource,
}

#[async_trait]
impl LoginMethod for Jwt {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn fingerprint(&self, client: &Client) -> Result<Fingerprint, KeyServiceError> {
        Ok(read_secret(client, &self.source).await?.fingerprint())
    }

    async fn credentials(
        &self,
        client: &Client,
        _deadline: Deadline,
    ) -> Result<Credentials, KeyServiceError> {
        let jwt = read_secret(client, &self.source).await?;
        let body = match &self.role {
            Some(role) => body(&[("jwt", jwt.expose()), ("role", role)])?,
            None => body(&[("jwt", jwt.expose())])?,
        };
        Ok(Credentials::Login { path: format!("auth/{}/login", self.mount), body })
    }

    fn files(&self) -> Vec<PathBuf> {
        self.source.path().into_iter().collect()
    }

    async fn bare_requests(&self, _client: &Client) -> Option<BareRequests> {
        let nameless = (format!("auth/{}/login", self.mount), body(&[]).ok()?);
        Some(BareRequests { nameless, secretless: None })
    }

    fn remedy(&self) -> String {
        "check vault.auth.role, the JWT's audience and expiry, and what the role binds".into()
    }
}
