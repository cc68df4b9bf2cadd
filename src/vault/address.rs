//! One address of the cluster: its HTTP client, and how it last answered.
//!
//! Must not know what is asked. One client an address, so that a dead address holds no connection of
//! another, and a server name can differ from the address's host.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::Instant;
use url::Url;

use super::tls::{self, TlsError};
use crate::config::vault::{Vault, is_loopback};
use crate::key_service::KeyServiceError;

/// Vault closes idle connections after five minutes; ours go before that.
const IDLE: Duration = Duration::from_secs(60);
/// Idle connections kept to one address.
const MAX_IDLE: usize = 32;
/// How long a TCP connection may leave data unacknowledged (tcp(7), TCP_USER_TIMEOUT).
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// How long the finding that an address belongs to another cluster is kept.
const FOREIGN_KEPT: Duration = Duration::from_secs(60);

/// One address.
pub(super) struct Address {
    /// As shown to people.
    pub name: String,
    /// The same, to count by.
    pub label: Arc<str>,
    /// The origin that redirects are compared with.
    pub origin: url::Origin,
    /// What requests go to: the host is the name that is verified.
    pub base: Url,
    http: RwLock<reqwest::Client>,
    /// Whether an answer is known to come from the server itself: verified TLS, or loopback.
    pub trusted: bool,
    host: Url,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    reachable: Option<bool>,
    reason: Option<String>,
    foreign_until: Option<Instant>,
}

impl Address {
    pub(super) fn list(vault: &Vault) -> Result<Vec<Self>, TlsError> {
        let tls = tls::client_config(&vault.tls)?;
        vault.addresses.iter().map(|url| Self::new(url, vault, tls.clone())).collect()
    }

    fn new(url: &Url, vault: &Vault, tls: rustls::ClientConfig) -> Result<Self, TlsError> {
        let mut base = url.clone();
        if let Some(name) = &vault.tls.server_name {
            base.set_host(Some(name)).map_err(|_| TlsError::of_server_name(name))?;
        }
        Ok(Self {
            name: url.origin().ascii_serialization(),
            label: url.origin().ascii_serialization().into(),
            origin: url.origin(),
            base,
            http: RwLock::new(http(url, vault, tls)?),
            trusted: is_loopback(url) || (url.scheme() == "https" && !vault.tls.skip_verify),
            host: url.clone(),
            state: Mutex::default(),
        })
    }

    /// Replaces the HTTP client; requests under way end on the old one.
    pub(super) fn reload(&self, vault: &Vault, tls: rustls::ClientConfig) -> Result<(), TlsError> {
        *self.http.write().unwrap_or_else(PoisonError::into_inner) = http(&self.host, vault, tls)?;
        Ok(())
    }

    /// Its HTTP client.
    pub(super) fn http(&self) -> reqwest::Client {
        self.http.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records a good answer.
    pub(super) fn answered(&self) {
        let mut state = self.lock();
        if state.reachable != Some(true) {
            if state.reachable == Some(false) {
                tracing::info!(KMS_VAULT_ADDRESS = self.name, "{} answers again", self.name);
            }
            state.reachable = Some(true);
            state.reason = None;
        }
    }

    /// Records that it did not answer; the log gets one line a change.
    pub(super) fn failed(&self, error: &KeyServiceError) {
        let reason = error.to_string();
        let mut state = self.lock();
        if state.reachable != Some(false) {
            tracing::warn!(KMS_VAULT_ADDRESS = self.name, "{reason}");
        }
        state.reachable = Some(false);
        state.reason = Some(reason);
    }

    /// Records whether it belongs to another cluster than the one we know.
    pub(super) fn set_foreign(&self, foreign: bool) {
        self.lock().foreign_until = foreign.then(|| Instant::now() + FOREIGN_KEPT);
    }

    /// Whether it was lately found to belong to another cluster.
    pub(super) fn is_other_cluster(&self) -> bool {
        self.lock().foreign_until.is_some_and(|until| until > Instant::now())
    }

    /// Whether it answered, and why not.
    pub(super) fn state(&self) -> (Option<bool>, Option<String>) {
        let state = self.lock();
        (state.reachable, state.reason.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn http(url: &Url, vault: &Vault, tls: rustls::ClientConfig) -> Result<reqwest::Client, TlsError> {
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .http1_only()
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(MAX_IDLE)
        .tcp_nodelay(true)
        .tcp_user_timeout(UNACKNOWLEDGED)
        .user_agent(concat!("kms-plugin/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(tls);
    if vault.tls.server_name.is_some() {
        let host = url.host_str().unwrap_or_default().to_owned();
        builder = builder.dns_resolver(FixedHost { host });
    }
    builder.build().map_err(|cause| TlsError::of_client(&cause))
}

/// Resolves whatever is asked to the address's host: the URL holds the name that TLS verifies.
struct FixedHost {
    host: String,
}

impl Resolve for FixedHost {
    fn resolve(&self, _name: Name) -> Resolving {
        let host = self.host.trim_matches(['[', ']']).to_owned();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}
