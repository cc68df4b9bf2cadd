//! The addresses of one cluster: sends a request to one of them, and remembers which one served last.
//!
//! Must not know the lifetime of tokens, nor Transit. There are no hidden retries: `attempts` has those of a call.
//! Redirects are followed to configured addresses only.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Semaphore;

use super::address::{Address, Connection};
use super::answer::{Answer, CallError};
use super::attempts::{MAX_HEDGED, MIN_OWN, MIN_SHARE, not_sent};
use super::budget::Budget;
use super::changes::Changes;
use super::classification::{Call, Class, Contents, Judgement, Received, Refusal};
use super::metadata::ResponseMetadata;
use super::namespace::Namespaces;
use super::pem::TlsError;
use super::replication::Replication;
use super::svid::SvidSource;
use super::transport::{Quota, Request, Response, Transport};
use crate::clock::{Deadline, Purpose};
use crate::config::vault::Vault;
use crate::files::FileAccess;
use crate::key_service::{AddressState, ErrorKind, KeyServiceError};
use crate::secret::Fingerprint;
use crate::spiffe::SpiffeError;
use crate::telemetry::metrics::Metrics;

/// What one address did with a request.
enum Attempt {
    Answered(Response, Contents),
    Refused(Judgement),
    /// It sends to the configured address with this index.
    Redirected(usize),
}

/// The cluster's addresses.
pub(super) struct Client {
    vault: Vault,
    transport: Arc<dyn Transport>,
    /// Where the client certificate comes from, when it is not in files.
    svid: Option<SvidSource>,
    pub(super) addresses: Vec<Address>,
    /// The index of the address that is tried first: the one that served the last request.
    preferred: AtomicUsize,
    /// The index of the address of the active server, and when it was found.
    pub(super) active: Mutex<Option<(usize, tokio::time::Instant)>>,
    /// The cluster that the key is in, when it is known.
    cluster_id: Mutex<Option<String>>,
    pub(super) replication: Replication,
    metadata: ResponseMetadata,
    pub(super) namespaces: Namespaces,
    /// The quota in the first and in the last answer that had one.
    quota: Mutex<Option<(Quota, Quota)>>,
    pub(super) metrics: Metrics,
    pub(super) budget: Budget,
    /// One permit for each call that has more than one attempt at the same time.
    pub(super) hedged: Semaphore,
    pub(super) changes: Arc<Changes>,
    /// For the credentials.
    pub(super) files: FileAccess,
    /// For the files of TLS: if their file system hangs, the credentials can still be read.
    pub(super) tls_access: FileAccess,
}

impl Client {
    /// Clients for every address. Reads the TLS files.
    pub(super) fn new(
        vault: &Vault,
        metrics: Metrics,
        transport: Arc<dyn Transport>,
        budget: Budget,
    ) -> Result<Self, TlsError> {
        let changes = Arc::new(Changes::default());
        let addresses = Address::list(vault, &changes, &metrics)?;
        Ok(Self {
            svid: vault.tls.spiffe.as_deref().map(SvidSource::new),
            vault: vault.clone(),
            transport,
            addresses,
            preferred: AtomicUsize::new(0),
            active: Mutex::default(),
            cluster_id: Mutex::default(),
            replication: Replication::default(),
            metadata: ResponseMetadata::default(),
            namespaces: Namespaces::default(),
            quota: Mutex::default(),
            metrics,
            budget,
            hedged: Semaphore::new(MAX_HEDGED),
            changes,
            files: FileAccess::default(),
            tls_access: FileAccess::default(),
        })
    }

    /// The files that connections are made with: those of TLS, and the password of the forward proxy.
    pub(super) fn connection_files(&self) -> Vec<PathBuf> {
        let client = self.vault.tls.client.iter().flat_map(|(certificate, key)| [certificate, key]);
        let login = self.vault.proxy.as_ref().and_then(|proxy| proxy.login.as_ref());
        let password = login.and_then(|(_, source)| source.path());
        self.vault.tls.ca_file.iter().chain(client).cloned().chain(password).collect()
    }

    /// Reads these files again. After an error, the old connections stay in use.
    pub(super) async fn reload_connections(&self) -> Result<(), TlsError> {
        let vault = self.vault.clone();
        let svid = self.svid.as_ref().and_then(SvidSource::held);
        let used = svid.clone();
        let read = self.tls_access.run(move || Connection::read(&vault, svid.as_deref())).await;
        let read = read
            .map_err(|cause| TlsError::new(format!("the files of the connection cannot be read: {cause}")));
        let connection = read??;
        self.addresses.iter().try_for_each(|address| address.reload(&self.vault, &connection))?;
        if let (Some(source), Some(svid)) = (&self.svid, &used) {
            source.is_used(svid);
        }
        Ok(())
    }

    /// Builds the connections anew when the X.509-SVID was replaced. Returns whether they were.
    pub(super) async fn reload_svid(&self) -> Result<bool, TlsError> {
        let is_new = self.svid.as_ref().is_some_and(SvidSource::is_new);
        if is_new {
            self.reload_connections().await?;
        }
        Ok(is_new)
    }

    /// Makes sure that the connections have an X.509-SVID, the current one.
    pub(super) async fn use_svid(&self, deadline: Deadline) -> Result<(), KeyServiceError> {
        if let Some(source) = &self.svid {
            source.current(deadline).await?;
            self.reload_svid().await.map_err(|error| {
                let remedy = "check vault.ca_file, and the log of the SPIRE agent";
                KeyServiceError::new(ErrorKind::CredentialsUnreadable, error.to_string(), remedy)
            })?;
        }
        Ok(())
    }

    /// A hash of the current X.509-SVID.
    pub(super) async fn svid_fingerprint(&self) -> Result<Fingerprint, SpiffeError> {
        match &self.svid {
            Some(source) => source.fingerprint().await,
            None => Ok(Fingerprint::default()),
        }
    }

    /// Follows the X.509-SVID, where there is one. Never returns.
    pub(super) async fn follow_svid(&self) {
        match &self.svid {
            Some(source) => source.follow().await,
            None => std::future::pending().await,
        }
    }

    /// Sends the request to one address, and to the address that it redirects to if that is configured.
    pub(super) async fn once(
        &self,
        index: usize,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<Answer, CallError> {
        let (mut index, mut deadline) = (index, deadline);
        for _hop in 0..2 {
            let Some(address) = self.addresses.get(index) else { break };
            let judgement = match self.attempt(address, request, deadline).await? {
                Attempt::Redirected(to) => {
                    // What the first one took, or waited for its turn, is no fault of the second one.
                    (index, deadline) = (to, deadline.at_least(MIN_SHARE));
                    continue;
                }
                Attempt::Answered(response, contents) => {
                    address.answered();
                    if !contents.silent || tracing::enabled!(tracing::Level::DEBUG) {
                        self.metadata.log(&response.body, request.call.label(), &address.name);
                    }
                    self.set_preferred(index);
                    if let Some(replicated) = &response.index {
                        self.replication.record(replicated, request.call);
                    }
                    return Ok(Answer { body: response.body, value: contents.range(), address: index });
                }
                Attempt::Refused(judgement) => judgement,
            };
            address.answered();
            let (path, address_name) = (request.path.to_owned(), address.name.clone());
            return Err(CallError::Refused(Refusal { judgement, path, address: index, address_name }));
        }
        let message = "the configured addresses redirect to each other";
        Err(KeyServiceError::new(ErrorKind::Standby, message, "wait for the cluster to elect a leader")
            .into())
    }

    /// Sends one request to one address. An answer that says nothing about the request, but that this address cannot
    /// process it, is an error.
    async fn attempt(
        &self,
        address: &Address,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<Attempt, KeyServiceError> {
        // If very little time is left, a failure says nothing about the address.
        let counts = deadline.remaining() >= MIN_SHARE;
        let result = self.send(address, request, deadline).await.and_then(|(response, judgement)| {
            if let Some(to) = judgement.target_among(self.addresses.iter().map(|known| &known.endpoint)) {
                return Ok(Attempt::Redirected(to));
            }
            let judgement = if address.is_removed() { judgement.of_removed_member() } else { judgement };
            let retry_after = response.retry_after.filter(|_| !judgement.lags());
            match (judgement.failure(&address.name), judgement.class()) {
                (Some(error), _) => Err(error.with_retry_after(retry_after)),
                (None, Class::Ok) => Ok(Attempt::Answered(response, judgement.into_contents())),
                (None, _) => Ok(Attempt::Refused(judgement)),
            }
        });
        if let Err(error) = &result
            && counts
        {
            address.failed(error);
        }
        result
    }

    /// Sends one request to one address, when the budget allows it, and judges the answer. All requests are sent here,
    /// so that no caller can exceed the budget.
    pub(super) async fn send(
        &self,
        address: &Address,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<(Response, Judgement), KeyServiceError> {
        let call = request.call;
        let deadline = self.budget.admit(call == Call::Health, &address.name, deadline).await?;
        if deadline.purpose() != Purpose::ApiServer && deadline.remaining() < MIN_OWN {
            return Err(not_sent(request, deadline.purpose()));
        }
        let started = Instant::now();
        let result = self.transport.send(address, request, deadline).await.map(|response| {
            self.record_quota(response.quota);
            let judgement = Judgement::of(&Received {
                call,
                base: &address.base,
                path: request.path,
                status: response.status,
                location: response.location.as_deref(),
                body: &response.body,
            });
            let judgement = if request.token.is_none() { judgement.without_token() } else { judgement };
            (response, judgement)
        });
        let outcome = match &result {
            Ok((_, judgement)) => judgement.outcome(),
            Err(error) => error.kind().name(),
        };
        address.count(&self.metrics, call, outcome, started.elapsed());
        result
    }

    /// Sets the cluster that the key is in.
    pub(super) fn expect_cluster(&self, id: Option<String>) {
        *self.cluster_id.lock().unwrap_or_else(PoisonError::into_inner) = id;
    }

    pub(super) fn cluster_id(&self) -> Option<String> {
        self.cluster_id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_preferred(&self, index: usize) {
        if self.preferred.swap(index, Ordering::Relaxed) != index {
            self.changes.notify();
        }
    }

    /// The indexes of the addresses, the preferred one first, without those of another cluster. One that failed is last
    /// until it answers: a refusal by another address would not make that the preferred one.
    pub(super) fn order(&self) -> Vec<usize> {
        self.order_from(self.preferred())
    }

    /// The index of the address that is tried first.
    pub(super) fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    /// The same with this address first.
    pub(super) fn order_from(&self, preferred: usize) -> Vec<usize> {
        let rest = (0..self.addresses.len()).filter(|index| *index != preferred);
        let address = |index: &usize| self.addresses.get(*index);
        let usable = |index: &usize| address(index).is_some_and(|address| !address.is_other_cluster());
        let mut order: Vec<_> = std::iter::once(preferred).chain(rest).filter(usable).collect();
        order.sort_by_key(|index| address(index).is_some_and(|address| address.state().0 == Some(false)));
        order
    }

    fn record_quota(&self, quota: Option<Quota>) {
        let Some(last) = quota else { return };
        let mut recorded = self.quota.lock().unwrap_or_else(PoisonError::into_inner);
        *recorded = Some((recorded.map_or(last, |(first, _)| first), last));
    }

    /// The quota in the first and in the last answer that had one.
    pub(super) fn quota(&self) -> Option<(Quota, Quota)> {
        *self.quota.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an answer of this address is known to come from the server itself.
    pub(super) fn is_trusted(&self, index: usize) -> bool {
        self.addresses.get(index).is_some_and(|address| address.trusted)
    }

    /// How each address last answered.
    pub(super) fn states(&self) -> Vec<AddressState> {
        let preferred = self.preferred();
        let state = |(index, address): (usize, &Address)| {
            let (reachable, reason) = address.state();
            AddressState { address: address.name.clone(), reachable, reason, preferred: index == preferred }
        };
        self.addresses.iter().enumerate().map(state).collect()
    }
}
