//! What an operator's check asks of a cluster: step by step, one address or one call at a time, with one
//! login at most.
//!
//! Must not judge what it finds, nor keep a token alive: that is the session's renewer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::Method;
use serde::Deserialize;

use super::client::CallError;
use super::cluster::SysHealth;
use super::handshake::{self, Handshake};
use super::login;
use super::session::Lookup;
use super::tls::TlsError;
use super::transit::TransitService;
use super::transport::{Quota, Request};
use crate::clock::Deadline;
use crate::config::vault::Vault;
use crate::key_service::{ErrorKind, KeyService as _, KeyServiceError};

use crate::telemetry::metrics::Metrics;

/// A ciphertext in Transit's form that no key has made: whoever may decrypt is told that it is bad.
const MADE_UP: &[u8] = b"vault:v1:bm90IGEgY2lwaGVydGV4dCBvZiBhbnkga2V5";

/// Looks at one key service.
pub(crate) struct Inspector {
    vault: Vault,
    key_service: TransitService,
}

/// One address, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// As shown to people.
    pub name: String,
    /// Its host, to resolve.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The name to verify; `None` for plain HTTP.
    pub tls_name: Option<String>,
}

#[derive(Deserialize)]
struct Capabilities {
    #[serde(flatten)]
    paths: BTreeMap<String, serde_json::Value>,
}

impl Inspector {
    /// Reads the TLS files; sends nothing yet.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(crate) fn new(vault: &Vault) -> Result<Self, TlsError> {
        Ok(Self { vault: vault.clone(), key_service: TransitService::new(vault, Metrics::default())? })
    }

    /// Another key of the same cluster, with the same login.
    pub(crate) fn beside(&self, vault: &Vault) -> Self {
        Self { vault: vault.clone(), key_service: self.key_service.beside(vault) }
    }

    /// The key service itself, with the token of [`Self::log_in`].
    pub(crate) fn key_service(&self) -> &TransitService {
        &self.key_service
    }

    /// The addresses in their order.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let target = |url: &url::Url| {
            let host = url.host_str().unwrap_or_default().to_owned();
            let name = self.vault.tls.server_name.clone().unwrap_or_else(|| host.clone());
            Target {
                name: url.origin().ascii_serialization(),
                port: url.port_or_known_default().unwrap_or_default(),
                tls_name: (url.scheme() == "https").then_some(name),
                host,
            }
        };
        self.vault.addresses.iter().map(target).collect()
    }

    /// One TLS handshake with `address`.
    ///
    /// # Errors
    /// When TLS cannot be set up at all.
    pub(crate) async fn handshake(
        &self,
        address: SocketAddr,
        name: &str,
        deadline: Deadline,
    ) -> Result<Handshake, TlsError> {
        handshake::handshake(&self.vault.tls, address, name, deadline).await
    }

    /// What the address of this number says of itself. Needs no token.
    ///
    /// # Errors
    /// When it does not answer as a server of ours.
    pub(crate) async fn health(
        &self,
        index: usize,
        deadline: Deadline,
    ) -> Result<SysHealth, KeyServiceError> {
        let client = &self.key_service.client;
        match client.addresses.get(index) {
            Some(address) => client.sys_health(address, deadline).await,
            None => Err(KeyServiceError::deadline("looking for a server")),
        }
    }

    /// Tells this login from others: a hash of the credentials and of where they are sent. Sends nothing.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn login_id(&self) -> Result<String, KeyServiceError> {
        let fingerprint = login::method(&self.vault).fingerprint()?;
        Ok(fingerprint.salted(self.vault.login_scope().as_bytes()))
    }

    /// What an operator does when the login is refused.
    pub(crate) fn login_remedy(&self) -> String {
        login::method(&self.vault).remedy()
    }

    /// Logs in, once: nothing is tried again.
    ///
    /// # Errors
    /// When the credentials cannot be read, or are refused, or nobody answers.
    pub(crate) async fn log_in(&self, deadline: Deadline) -> Result<(), KeyServiceError> {
        let token = self.key_service.session.obtain(deadline).await?;
        self.key_service.session.held.send_modify(|held| held.token = Some(Arc::new(token)));
        Ok(())
    }

    /// What the server says of the token; `None` when it may not ask.
    ///
    /// # Errors
    /// When nobody answers.
    pub(crate) async fn token(&self, deadline: Deadline) -> Result<Option<Lookup>, KeyServiceError> {
        let token = self.key_service.session.token(deadline).await?;
        self.key_service.session.lookup(&token.secret, deadline).await
    }

    /// What the token may do at each of these paths below the key's namespace; `None` when it may not ask.
    ///
    /// # Errors
    /// When nobody answers.
    pub(crate) async fn capabilities(
        &self,
        paths: &[&str],
        deadline: Deadline,
    ) -> Result<Option<BTreeMap<String, Vec<String>>>, KeyServiceError> {
        let token = self.key_service.session.token(deadline).await?;
        let body = serde_json::json!({ "paths": paths }).to_string().into_bytes().into();
        let request = Request {
            method: Method::POST,
            path: "sys/capabilities-self",
            namespace: &self.vault.namespace,
            token: Some(&token.secret),
            index: token.index.as_deref(),
            body: Some(&body),
        };
        match self.key_service.client.call(&request, deadline).await {
            Ok(answer) => {
                let Capabilities { paths } = answer.data()?;
                let words = |(path, value)| Some((path, serde_json::from_value(value).ok()?));
                Ok(Some(paths.into_iter().filter_map(words).collect()))
            }
            Err(CallError::Refused(_)) => Ok(None),
            Err(CallError::Failed(error)) => Err(error),
        }
    }

    /// Whether the token may unwrap, found out with a ciphertext that cannot be unwrapped.
    ///
    /// # Errors
    /// When it may not, or the key is not there, or nobody answers.
    pub(crate) async fn may_unwrap(&self, deadline: Deadline) -> Result<(), KeyServiceError> {
        match self.key_service.unwrap(MADE_UP, &[], deadline).await {
            Err(error) if error.kind() == ErrorKind::BadCiphertext => Ok(()),
            // Too old a version: the key was looked at, so the policy allows it.
            Err(error) if error.kind() == ErrorKind::VersionGone => Ok(()),
            other => other.map(drop),
        }
    }

    /// The rate limit that the first and the last answer told of, where they did.
    pub(crate) fn quota(&self) -> Option<(Quota, Quota)> {
        self.key_service.client.quota()
    }

    /// Gives the token back that [`Self::log_in`] made; one that somebody else made is left alone. The policy
    /// need not allow that: then it ends by itself.
    pub(crate) async fn give_back(&self, deadline: Deadline) {
        let session = &self.key_service.session;
        let Some(token) = session.current().filter(|_| session.method.logs_in()) else { return };
        let path = "auth/token/revoke-self";
        let request = session.request(Method::POST, path, Some(&token.secret), None);
        let _refused = self.key_service.client.call(&request, deadline).await;
    }
}
