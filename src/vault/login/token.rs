//! `token`: a token from a file. The agent does not log in; something else creates the token.

use std::path::PathBuf;

use async_trait::async_trait;

use super::{Credentials, LoginMethod, read_secret};
use crate::clock::Deadline;
use crate::config::secret::SecretSource;
use crate::key_service::KeyServiceError;
use crate::secret::Fingerprint;
use crate::vault::client::Client;

pub(super) struct TokenFile {
    pub(super) source: SecretSource,
}

#[async_trait]
impl LoginMethod for TokenFile {
    fn name(&self) -> &'static str {
        "token"
    }

    async fn fingerprint(&self, client: &Client) -> Result<Fingerprint, KeyServiceError> {
        Ok(read_secret(client, &self.source).await?.fingerprint())
    }

    fn logs_in(&self) -> bool {
        false
    }

    async fn credentials(
        &self,
        client: &Client,
        _deadline: Deadline,
    ) -> Result<Credentials, KeyServiceError> {
        Ok(Credentials::Token(read_secret(client, &self.source).await?))
    }

    fn files(&self) -> Vec<PathBuf> {
        self.source.path().into_iter().collect()
    }

    fn remedy(&self) -> String {
        "create a new token (vault token create -policy=… -period=24h) and write it into the token file; the agent uses it within seconds. A method that logs in, such as approle, does not need this".into()
    }
}
