//! `cert`: the TLS client certificate is the credential; the body names a role at most.

use std::path::PathBuf;

use async_trait::async_trait;

use super::{Credentials, LoginMethod, body};
use crate::clock::Deadline;
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::secret::{Fingerprint, Secret};
use crate::vault::client::Client;

pub(super) struct Cert {
    pub(super) mount: String,
    pub(super) role: Option<String>,
    pub(super) files: Vec<PathBuf>,
}

#[async_trait]
impl LoginMethod for Cert {
    fn name(&self) -> &'static str {
        "cert"
    }

    /// Of the certificate, which is public: the key is not read here.
    fn fingerprint(&self) -> Result<Fingerprint, KeyServiceError> {
        let Some(certificate) = self.files.first() else { return Ok(Fingerprint::default()) };
        let text = std::fs::read_to_string(certificate).map_err(|cause| {
            KeyServiceError::new(
                ErrorKind::CredentialsUnreadable,
                format!("the client certificate {} cannot be read: {cause}", certificate.display()),
                "check that it exists and that the agent's user may read it",
            )
        })?;
        Ok(Secret::new(text).fingerprint())
    }

    async fn credentials(
        &self,
        _client: &Client,
        _deadline: Deadline,
    ) -> Result<Credentials, KeyServiceError> {
        let body = match &self.role {
            Some(role) => body(&[("name", role)])?,
            None => body(&[])?,
        };
        Ok(Credentials::Login { path: format!("auth/{}/login", self.mount), body })
    }

    fn files(&self) -> Vec<PathBuf> {
        self.files.clone()
    }

    fn remedy(&self) -> String {
        "check that the certificate role trusts the authority of vault.client_cert_file and that the certificate is not expired".into()
    }
}
