//! `token`: a token made by somebody else, in a file.

use std::path::PathBuf;

use async_trait::async_trait;

use super::{Credentials, LoginMethod};
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

    fn fingerprint(&self) -> Result<Fingerprint, KeyServiceError> {
        Ok(self.source.read()?.fingerprint())
    }

    fn logs_in(&self) -> bool {
        false
    }

    async fn credentials(
        &self,
        _client: &Client,
        _deadline: Deadline,
    ) -> Result<Credentials, KeyServiceError> {
        Ok(Credentials::Token(self.source.read()?))
    }

    fn files(&self) -> Vec<PathBuf> {
        self.source.path().into_iter().collect()
    }

    fn remedy(&self) -> String {
        "make a new token (vault token create -policy=… -period=24h) and write it into the token file; it is taken up within seconds. A method that logs in by itself, such as approle, does not need this".into()
    }
}
