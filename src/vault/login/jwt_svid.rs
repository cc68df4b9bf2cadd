//! `jwt` with a JWT-SVID: the SPIFFE Workload API makes a new one for each login.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use super::{Credentials, LoginMethod, body};
use crate::clock::Deadline;
use crate::key_service::KeyServiceError;
use crate::secret::Fingerprint;
use crate::spiffe::WorkloadApi;
use crate::vault::client::Client;

/// Time for a JWT-SVID that is only compared with a refused one.
const TIMEOUT: Duration = Duration::from_secs(3);

pub(super) struct JwtSvid {
    pub(super) mount: String,
    pub(super) role: Option<String>,
    pub(super) api: WorkloadApi,
    pub(super) audience: String,
}

#[async_trait]
impl LoginMethod for JwtSvid {
    fn name(&self) -> &'static str {
        "jwt"
    }

    /// The API keeps a JWT-SVID for half of its life: a refused one is not sent again before there is a new one.
    async fn fingerprint(&self, _client: &Client) -> Result<Fingerprint, KeyServiceError> {
        Ok(self.api.jwt_svid(&self.audience, Deadline::after(TIMEOUT)).await?.fingerprint())
    }

    async fn credentials(
        &self,
        _client: &Client,
        deadline: Deadline,
    ) -> Result<Credentials, KeyServiceError> {
        let jwt = self.api.jwt_svid(&self.audience, deadline).await?;
        let body = match &self.role {
            Some(role) => body(&[("jwt", jwt.expose()), ("role", role)])?,
            None => body(&[("jwt", jwt.expose())])?,
        };
        Ok(Credentials::Login { path: format!("auth/{}/login", self.mount), body })
    }

    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn remedy(&self) -> String {
        "check vault.auth.role and its bound_subject, vault.spiffe.audience and its bound_audiences, and that the JWT mount has the keys of the trust domain (spire-server bundle show -format spiffe)".into()
    }
}
