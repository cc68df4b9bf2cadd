//! `cert`: the TLS client certificate is the credential. The body holds at most the name of a role.

use std::path::PathBuf;

use async_trait::async_trait;

use super::{Credentials, LoginMethod, body, read};
use crate::clock::Deadline;
use crate::files;
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::secret::{Fingerprint, Secret};
use crate::vault::client::Client;
use crate::vault::pem::MAX_PEM;

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

    /// The fingerprint of the certificate, which is public. The key is not read here.
    async fn fingerprint(&self, client: &Client) -> Result<Fingerprint, KeyServiceError> {
        let Some(certificate) = self.files.first().cloned() else { return Ok(Fingerprint::default()) };
        let files = [certificate.clone()];
        let text = read(client, &files, move || {
            files::read_text(&certificate, MAX_PEM).map_err(|cause| {
                KeyServiceError::new(
                    ErrorKind::CredentialsUnreadable,
                    format!("the client certificate {} cannot be read: {cause}", certificate.display()),
                    "check that it exists and that the agent's user may read it",
                )
            })
        });
        Ok(Secret::new(text.await?.to_string()).fingerprint())
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
