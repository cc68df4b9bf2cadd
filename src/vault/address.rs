//! One address of the cluster: its HTTP client, and how it last answered.
//!
//! Must not know what is requested. Each address has its own HTTP client, for two reasons. An address that hangs uses
//! no connection of another address. The server name that TLS verifies can differ from the host of the address.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;
use url::Url;

use super::changes::Changes;
use super::classification::Call;
use super::pem::TlsError;
use super::{forward, tls};
use crate::config::endpoint::Endpoint;
use crate::config::forward_proxy::ForwardProxy;
use crate::config::vault::Vault;
use crate::http;
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::spiffe::X509Svid;
use crate::telemetry::metrics::{Metrics, SUCCEEDED, Succeeded};
use crate::telemetry::throttle::LogThrottle;

/// How long an address that belongs to another cluster is not used.
const OTHER_CLUSTER_PAUSE: Duration = Duration::from_secs(60);

/// One address.
pub(crate) struct Address {
    /// As shown to people.
    pub name: String,
    /// The same, as a metric label.
    label: Arc<str>,
    encrypted: Succeeded,
    decrypted: Succeeded,
    /// The base of each request's URL. Its host is the name that TLS verifies. Its path ends with a slash.
    pub base: Url,
    http: RwLock<Arc<http::Client>>,
    /// Whether an answer is known to come from the server itself: verified TLS, or loopback.
    pub trusted: bool,
    /// The forward proxy on the way to it, as shown to people.
    pub proxy: Option<String>,
    /// As configured: redirects are compared with it.
    pub endpoint: Endpoint,
    state: Mutex<State>,
    changes: Arc<Changes>,
    log: LogThrottle,
}

#[derive(Default)]
struct State {
    reachable: Option<bool>,
    reason: Option<String>,
    other_cluster_until: Option<Instant>,
    removed: bool,
}

impl Address {
    pub(super) fn list(
        vault: &Vault,
        changes: &Arc<Changes>,
        metrics: &Metrics,
    ) -> Result<Vec<Self>, TlsError> {
        let connection = Connection::read(vault, None)?;
        let new = |endpoint| Self::new(endpoint, vault, &connection, changes.clone(), metrics);
        vault.addresses.iter().map(new).collect()
    }

    fn new(
        endpoint: &Endpoint,
        vault: &Vault,
        connection: &Connection,
        changes: Arc<Changes>,
        metrics: &Metrics,
    ) -> Result<Self, TlsError> {
        let url = endpoint.url();
        let mut base = url.clone();
        if let Some(name) = &vault.tls.server_name {
            base.set_host(Some(name)).map_err(|_| TlsError::of_server_name(name))?;
        }
        let label = endpoint.name().into();
        Ok(Self {
            name: endpoint.name(),
            encrypted: metrics.succeeded(Call::Encrypt.label(), &label),
            decrypted: metrics.succeeded(Call::Decrypt.label(), &label),
            label,
            http: RwLock::new(client(endpoint, &base, vault, connection)?),
            base,
            trusted: endpoint.is_local() || (url.scheme() == "https" && !vault.tls.skip_verify),
            proxy: vault.proxy.as_ref().filter(|proxy| proxy.covers(endpoint)).map(ForwardProxy::name),
            endpoint: endpoint.clone(),
            state: Mutex::default(),
            changes,
            log: LogThrottle::new(2),
        })
    }

    /// Replaces the HTTP client. Requests that already run end on the old one.
    pub(super) fn reload(&self, vault: &Vault, connection: &Connection) -> Result<(), TlsError> {
        *self.http.write().unwrap_or_else(PoisonError::into_inner) =
            client(&self.endpoint, &self.base, vault, connection)?;
        Ok(())
    }

    /// Counts a request that has ended.
    pub(super) fn count(&self, metrics: &Metrics, call: Call, outcome: &'static str, took: Duration) {
        match (call, outcome) {
            (Call::Encrypt, SUCCEEDED) => self.encrypted.record(took),
            (Call::Decrypt, SUCCEEDED) => self.decrypted.record(took),
            _ => metrics.vault_call(call.label(), &self.label, outcome, took),
        }
    }

    pub(super) fn http(&self) -> Arc<http::Client> {
        self.http.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records an answer. The log is told of the first one after a failure, and not more often than its throttle allows:
    /// a balancer may lead to a dead member with every third request.
    pub(super) fn answered(&self) {
        if self.record(true, None) == Some(false)
            && let Some(times) = self.log.admit("answers")
        {
            tracing::info!(KMS_VAULT_ADDRESS = self.name, times, "{} answers again", self.name);
        }
    }

    /// Records a failure. The log is told of the first one only: that after an answer, or after the start. A request
    /// that was not sent is no failure of the address.
    pub(super) fn failed(&self, error: &KeyServiceError) {
        if error.kind() == ErrorKind::HeldBack {
            return;
        }
        let reason = error.to_string();
        if self.record(false, Some(reason.clone())) != Some(false)
            && let Some(times) = self.log.admit("failed")
        {
            tracing::warn!(KMS_VAULT_ADDRESS = self.name, times, "{reason}");
        }
    }

    /// Sets the state. Returns whether the address was reachable before.
    fn record(&self, reachable: bool, reason: Option<String>) -> Option<bool> {
        let mut state = self.lock();
        let before = state.reachable;
        let changed = before != Some(reachable) || state.reason != reason;
        (state.reachable, state.reason) = (Some(reachable), reason);
        drop(state);
        if changed {
            self.changes.notify();
        }
        before
    }

    /// Records whether it belongs to a cluster other than the key's.
    pub(super) fn set_other_cluster(&self, other: bool) {
        self.lock().other_cluster_until = other.then(|| Instant::now() + OTHER_CLUSTER_PAUSE);
    }

    /// Records whether its health says that it was removed from its cluster.
    pub(super) fn set_removed(&self, removed: bool) {
        self.lock().removed = removed;
    }

    pub(super) fn is_removed(&self) -> bool {
        self.lock().removed
    }

    /// Whether a check within the last [`OTHER_CLUSTER_PAUSE`] found that it belongs to another cluster.
    pub(super) fn is_other_cluster(&self) -> bool {
        self.lock().other_cluster_until.is_some_and(|until| until > Instant::now())
    }

    /// Whether it is reachable (`None` before the first answer), and why not.
    pub(super) fn state(&self) -> (Option<bool>, Option<String>) {
        let state = self.lock();
        (state.reachable, state.reason.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the HTTP clients of all addresses are built from: the files of TLS, and the password of the forward proxy.
pub(super) struct Connection {
    tls: Arc<rustls::ClientConfig>,
    proxy: Option<http::Proxy>,
}

impl Connection {
    /// Reads the files. `svid` is the client certificate that comes from no file.
    pub(super) fn read(vault: &Vault, svid: Option<&X509Svid>) -> Result<Self, TlsError> {
        let tls = Arc::new(tls::client_config(&vault.tls, svid)?);
        Ok(Self { proxy: forward::read(vault.proxy.as_ref(), &tls)?, tls })
    }
}

/// The client of an address. `base` is the base of each request's URL.
fn client(
    endpoint: &Endpoint,
    base: &Url,
    vault: &Vault,
    connection: &Connection,
) -> Result<Arc<http::Client>, TlsError> {
    let covered = vault.proxy.as_ref().is_some_and(|proxy| proxy.covers(endpoint));
    let proxy = connection.proxy.clone().filter(|_| covered);
    let route = http::Route::new(base, &connection.tls).and_then(|route| match (endpoint.socket(), proxy) {
        (Some(socket), _) => Ok(route.over_socket(socket.to_path_buf())),
        (None, Some(proxy)) => Ok(route.through(proxy)),
        (None, None) => route.by_way_of(endpoint.url()),
    });
    let unusable = |_| TlsError::new(format!("{} cannot be used as an address", endpoint.name()));
    route.map(http::Client::new).map(Arc::new).map_err(unusable)
}
