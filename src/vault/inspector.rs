//! Single steps for `kms-plugin check`: each sends one request to the cluster, or to one address. At most one login.
//!
//! Must not judge the results, nor renew a token.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::Method;
use serde::Deserialize;

use super::answer::CallError;
use super::budget::Budget;
use super::cluster::SysHealth;
use super::handshake::{self, Handshake};
use super::login;
use super::pem::TlsError;
use super::token::Lookup;
use super::transit::TransitService;
use super::transport::{Http, Quota, Request};
use crate::clock::Deadline;
use crate::config::endpoint::Endpoint;
use crate::config::forward_proxy::ForwardProxy;
use crate::config::vault::Vault;
use crate::key_service::{ErrorKind, KeyService as _, KeyServiceError};
use crate::telemetry::metrics::Metrics;
use crate::untrusted;

/// A ciphertext in Transit's form that no key made. The server checks the policy first, then reports it as invalid.
const INVALID_CIPHERTEXT: &[u8] = b"vault:v1:bm90IGEgY2lwaGVydGV4dCBvZiBhbnkga2V5";

/// Inspects one key service.
pub(crate) struct Inspector {
    vault: Vault,
    key_service: TransitService,
}

/// The parts of one address.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// As shown to people.
    pub name: String,
    /// The unix socket to connect to, where it is one.
    pub socket: Option<PathBuf>,
    /// The forward proxy on the way to it.
    pub proxy: Option<ForwardProxy>,
    /// The host to resolve.
    pub host: String,
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
    /// Reads the TLS files, and sends nothing yet.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(crate) fn new(vault: &Vault) -> Result<Self, TlsError> {
        let key_service =
            TransitService::new(vault, Metrics::default(), Arc::new(Http), Budget::unlimited())?;
        Ok(Self { vault: vault.clone(), key_service })
    }

    /// Another key of the same cluster, with the same login.
    pub(crate) fn beside(&self, vault: &Vault) -> Self {
        Self { vault: vault.clone(), key_service: self.key_service.beside(vault) }
    }

    /// The key service itself, with the token of [`Self::log_in`].
    pub(crate) fn key_service(&self) -> &TransitService {
        &self.key_service
    }

    /// The addresses in the configured order.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let target = |endpoint: &Endpoint| {
            let url = endpoint.url();
            let host = url.host_str().unwrap_or_default().to_owned();
            let name = self.vault.tls.server_name.clone().unwrap_or_else(|| host.clone());
            Target {
                name: endpoint.name(),
                socket: endpoint.socket().map(Path::to_path_buf),
                proxy: self.vault.proxy.clone().filter(|proxy| proxy.covers(endpoint)),
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

    /// The health of the server at the address with this index. Needs no token.
    ///
    /// # Errors
    /// When it does not answer as Vault does.
    pub(crate) async fn health(
        &self,
        index: usize,
        deadline: Deadline,
    ) -> Result<SysHealth, KeyServiceError> {
        let client = &self.key_service.client;
        match client.addresses.get(index) {
            Some(address) => client.sys_health(address, deadline).await,
            None => Err(KeyServiceError::deadline("trying the addresses")),
        }
    }

    /// Whether the server at the address with this index has namespaces; `None` when that is not known.
    pub(crate) async fn has_namespaces(
        &self,
        index: usize,
        health: &SysHealth,
        deadline: Deadline,
    ) -> Option<bool> {
        let client = &self.key_service.client;
        client.has_namespaces(client.addresses.get(index)?, health, deadline).await
    }

    /// Identifies this login: a hash of the credentials and of where they are sent. Sends nothing.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) async fn login_id(&self) -> Result<String, KeyServiceError> {
        let method = login::method(&self.vault);
        let fingerprint = method.fingerprint(&self.key_service.client).await?;
        Ok(fingerprint.salted(self.vault.login_scope().as_bytes()))
    }

    /// What an administrator does when the login is refused.
    pub(crate) fn login_remedy(&self) -> String {
        login::method(&self.vault).remedy()
    }

    /// Logs in once. Does not retry.
    ///
    /// # Errors
    /// When the credentials cannot be read, or are refused, or no address answers.
    pub(crate) async fn log_in(&self, deadline: Deadline) -> Result<(), KeyServiceError> {
        self.key_service.session.log_in_once(deadline).await
    }

    /// How many requests the token of [`Self::log_in`] allows; 0 means no limit.
    pub(crate) fn token_uses(&self) -> u64 {
        self.key_service.session.current().map_or(0, |token| token.num_uses)
    }

    /// Asks whether the login is there, without its secret: that uses nothing up. `None` when the method has no such
    /// question.
    ///
    /// # Errors
    /// When the server answers that it is not, or that it is locked.
    pub(crate) async fn ask_for_login(&self, deadline: Deadline) -> Option<Result<(), KeyServiceError>> {
        self.key_service.session.ask_for_login(deadline).await
    }

    /// Looks the wrapping token of a wrapped secret-id up, which does not use it up. Returns the path that it was made
    /// by.
    ///
    /// # Errors
    /// When it was used, has expired, or was made for something else.
    pub(crate) async fn look_up_wrapping(&self, deadline: Deadline) -> Result<String, KeyServiceError> {
        login::look_up_wrapping(&self.vault, &self.key_service.client, deadline).await
    }

    /// The lookup of the token; `None` when its policy denies that.
    ///
    /// # Errors
    /// When no address answers.
    pub(crate) async fn token(&self, deadline: Deadline) -> Result<Option<Lookup>, KeyServiceError> {
        let token = self.key_service.session.token(deadline).await?;
        self.key_service.session.lookup(&token, deadline).await
    }

    /// The capabilities of the token on each of these paths in the key's namespace; `None` when its policy denies
    /// that request.
    ///
    /// # Errors
    /// When no address answers.
    pub(crate) async fn capabilities(
        &self,
        paths: &[&str],
        deadline: Deadline,
    ) -> Result<Option<BTreeMap<String, Vec<String>>>, KeyServiceError> {
        let token = self.key_service.session.token(deadline).await?;
        let body = serde_json::json!({ "paths": paths }).to_string().into_bytes().into();
        let request = Request {
            namespace: &self.vault.namespace,
            token: token.secret.as_ref(),
            body: Some(&body),
            ..Request::new(Method::POST, "sys/capabilities-self")
        };
        let answer = self.key_service.client.call(&request, deadline).await;
        match answer.map_err(|error| error.unless_denied("reading the token's capabilities")) {
            Ok(answer) => {
                let Capabilities { paths } = answer.data()?;
                let words = |(path, value)| {
                    Some((path, untrusted::deserialize_list::<serde_json::Value>(value).ok()?))
                };
                Ok(Some(paths.into_iter().filter_map(words).collect()))
            }
            Err(CallError::Refused(_)) => Ok(None),
            Err(CallError::Failed(error)) => Err(error),
        }
    }

    /// Checks with an invalid ciphertext whether the token may unwrap.
    ///
    /// # Errors
    /// When it may not, or the key does not exist, or no address answers.
    pub(crate) async fn may_unwrap(&self, deadline: Deadline) -> Result<(), KeyServiceError> {
        match self.key_service.unwrap(INVALID_CIPHERTEXT, &[], deadline).await {
            Err(error) if error.kind() == ErrorKind::BadCiphertext => Ok(()),
            // The version is too old: the server checked the key, so the policy allows it.
            Err(error) if error.kind() == ErrorKind::VersionGone => Ok(()),
            other => other.map(drop),
        }
    }

    /// The rate limit quota in the first and in the last answer that had one.
    pub(crate) fn quota(&self) -> Option<(Quota, Quota)> {
        self.key_service.client.quota()
    }

    /// Revokes the token of [`Self::log_in`]. A token that was created elsewhere is not revoked.
    pub(crate) async fn revoke_login(&self, deadline: Deadline) {
        self.key_service.session.revoke(deadline).await;
    }
}
