//! `userpass`: a user name and a password from a file.

use std::path::PathBuf;

use async_trait::async_trait;

use super::{BareRequests, Credentials, DENIED, LoginMethod, body, read_secret};
use crate::clock::Deadline;
use crate::config::secret::SecretSource;
use crate::key_service::KeyServiceError;
use crate::secret::Fingerprint;
use crate::vault::client::Client;

pub(super) struct Userpass {
    pub(super) mount: String,
    pub(super) username: String,
    pub(super) password: SecretSource,
}

#[async_trait]
impl LoginMethod for Userpass {
    fn name(&self) -> &'static str {
        "userpass"
    }

    async fn fingerprint(&self, client: &Client) -> Result<Fingerprint, KeyServiceError> {
        Ok(read_secret(client, &self.password).await?.fingerprint())
    }

    async fn credentials(
        &self,
        client: &Client,
        _deadline: Deadline,
    ) -> Result<Credentials, KeyServiceError> {
        let password = read_secret(client, &self.password).await?;
        Ok(Credentials::Login {
            path: format!("auth/{}/login/{}", self.mount, self.username),
            body: body(&[("password", password.expose())])?,
        })
    }

    fn files(&self) -> Vec<PathBuf> {
        self.password.path().into_iter().collect()
    }

    fn denied_remedy(&self) -> String {
        DENIED.to_owned()
    }

    fn locks(&self) -> bool {
        true
    }

    /// Vault counts a login without a password as a wrong one of its user.
    async fn bare_requests(&self, _client: &Client) -> Option<BareRequests> {
        let nameless = (format!("auth/{}/login/kms-plugin-names-nobody", self.mount), body(&[]).ok()?);
        Some(BareRequests { nameless, secretless: None })
    }

    fn remedy(&self) -> String {
        format!(
            "check the user name {:?}, its password file and vault.auth.mount; after several wrong passwords the server locks the user for some minutes",
            self.username
        )
    }
}
