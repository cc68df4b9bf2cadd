//! `none`: no login. A Vault or OpenBao proxy on this machine logs in, and adds its own token to each request.

use std::path::PathBuf;

use async_trait::async_trait;

use super::{Credentials, LoginMethod};
use crate::clock::Deadline;
use crate::key_service::KeyServiceError;
use crate::secret::Fingerprint;
use crate::vault::client::Client;

pub(super) struct NoLogin;

#[async_trait]
impl LoginMethod for NoLogin {
    fn name(&self) -> &'static str {
        "none"
    }

    /// There are no credentials.
    async fn fingerprint(&self, _client: &Client) -> Result<Fingerprint, KeyServiceError> {
        Ok(Fingerprint::default())
    }

    fn logs_in(&self) -> bool {
        false
    }

    fn has_token(&self) -> bool {
        false
    }

    async fn credentials(
        &self,
        _client: &Client,
        _deadline: Deadline,
    ) -> Result<Credentials, KeyServiceError> {
        Ok(Credentials::OfTheProxy)
    }

    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn remedy(&self) -> String {
        "see the proxy's log: why it does not log in".into()
    }
}
