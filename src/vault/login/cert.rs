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
    /// Whether the certificate is an X.509-SVID, and not in files.
    pub(super) by_svid: bool,
}

#[async_trait]
impl LoginMethod for Cert {
    fn name(&self) -> &'static str {
        "cert"
    }

    /// The fingerprint of the certificate, which is public. The key is not read here.
    async fn fingerprint(&self, client: &Client) -> Result<Fingerprint, KeyServiceError> {
        if self.by_svid {
            return Ok(client.svid_fingerprint().await?);
        }
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

    async fn credentials(&self, client: &Client, deadline: Deadline) -> Result<Credentials, KeyServiceError> {
        if self.by_svid {
            client.use_svid(deadline).await?;
        }
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
        if self.by_svid {
            return "check that the certificate role trusts the authority of the trust domain (spire-server bundle show), and its allowed_uri_sans the SPIFFE ID".into();
        }
        "check that the certificate role trusts the authority of vault.client_cert_file and that the certificate is not expired".into()
    }
}
