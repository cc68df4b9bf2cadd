//! One request to the cluster: several addresses in order, failover, and memory of the good one.
//!
//! Must not know tokens' lives or Transit. Every attempt's time comes from what is left of the caller's
//! deadline; there are no hidden retries, and redirects lead only to configured addresses.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::address::Address;
use super::error::{self, Refusal};
use super::metadata::ResponseMetadata;
use super::tls::{self, TlsError};
use super::transport::{Quota, Raw, Request, exchange};
use crate::clock::Deadline;
use crate::config::vault::Vault;
use crate::key_service::{AddressState, ErrorKind, KeyServiceError};
use crate::retry;
use crate::telemetry::metrics::Metrics;

/// Least time that one of several addresses gets before the next is tried.
const MIN_SHARE: Duration = Duration::from_millis(250);
/// Longest pause that a `Retry-After` may ask for inside one call.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// A good answer.
pub(super) struct Answer {
    pub body: Zeroizing<Vec<u8>>,
    pub index: Option<String>,
    pub address: usize,
}

impl Answer {
    /// The answer's `data` or `auth`, whichever `T` names.
    pub(super) fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, KeyServiceError> {
        serde_json::from_slice(&self.body).map_err(|_| error::not_vault("the server"))
    }

    /// The answer's `data`.
    pub(super) fn data<T: DeserializeOwned>(&self) -> Result<T, KeyServiceError> {
        self.parse::<Data<T>>().map(|answer| answer.data)
    }
}

/// The envelope of most answers.
#[derive(Deserialize)]
pub(super) struct Data<T> {
    pub data: T,
}

/// Why there is no good answer.
pub(super) enum CallError {
    /// The server refuses, in its own words.
    Refused(Refusal),
    /// Nobody answered properly.
    Failed(KeyServiceError),
}

impl From<KeyServiceError> for CallError {
    fn from(error: KeyServiceError) -> Self {
        Self::Failed(error)
    }
}

/// The cluster's addresses.
pub(super) struct Client {
    vault: Vault,
    pub(super) addresses: Vec<Address>,
    preferred: AtomicUsize,
    /// The cluster that our key is known to live in.
    cluster_id: Mutex<Option<String>>,
    metadata: ResponseMetadata,
    /// The first and the last quota that an answer told of.
    quota: Mutex<Option<(Quota, Quota)>>,
    pub(super) metrics: Metrics,
}

impl Client {
    /// Clients for every address. Reads the TLS files.
    pub(super) fn new(vault: &Vault, metrics: Metrics) -> Result<Self, TlsError> {
        let addresses = Address::list(vault)?;
        Ok(Self {
            vault: vault.clone(),
            addresses,
            preferred: AtomicUsize::new(0),
            cluster_id: Mutex::default(),
            metadata: ResponseMetadata::default(),
            quota: Mutex::default(),
            metrics,
        })
    }

    /// The files that TLS is made of.
    pub(super) fn tls_files(&self) -> Vec<PathBuf> {
        let client = self.vault.tls.client.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.vault.tls.ca_file.iter().chain(client).cloned().collect()
    }

    /// Reads the TLS files again. What cannot be used is told, and the old stays.
    pub(super) fn reload_tls(&self) -> Result<(), TlsError> {
        let tls = tls::client_config(&self.vault.tls)?;
        self.addresses.iter().try_for_each(|address| address.reload(&self.vault, tls.clone()))
    }

    /// Asks the addresses in turn, the last good one first, until one answers or the time is over.
    pub(super) async fn call(&self, request: &Request<'_>, deadline: Deadline) -> Result<Answer, CallError> {
        let mut last = None;
        for round in 0..2 {
            for (index, share) in self.shares(deadline) {
                match self.once(index, request, share()).await {
                    Err(CallError::Failed(error)) if !error.kind().may_fail_over() => {
                        return Err(error.into());
                    }
                    Err(CallError::Failed(error)) if !deadline.expired() => last = Some(error),
                    Err(CallError::Failed(error)) => {
                        return Err(in_time(last.unwrap_or(error), request).into());
                    }
                    done => return done,
                }
            }
            // A broken connection or a busy server deserves one more round, where the time allows it.
            let Some(error) = &last else { break };
            let pause = error.retry_after().unwrap_or(Duration::from_millis(20));
            let pause = pause.mul_f64(1.0 + retry::jitter() / 2.0);
            if round > 0 || pause > MAX_PAUSE || pause * 2 > deadline.remaining() {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        Err(last.unwrap_or_else(|| KeyServiceError::deadline("looking for a server")).into())
    }

    /// The addresses in the order of trying, each with the deadline of its share of what is left then:
    /// one that hangs leaves time for the next.
    pub(super) fn shares(&self, deadline: Deadline) -> impl Iterator<Item = (usize, impl Fn() -> Deadline)> {
        let order = self.order();
        let count = order.len();
        order.into_iter().enumerate().map(move |(tried, index)| {
            let left = u32::try_from(count - tried).unwrap_or(1).max(1);
            (index, move || deadline.at_most((deadline.remaining() / left).max(MIN_SHARE)))
        })
    }

    /// Asks one address, and the one that it redirects to, if that is configured.
    pub(super) async fn once(
        &self,
        index: usize,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<Answer, CallError> {
        let mut index = index;
        for _hop in 0..2 {
            let Some(address) = self.addresses.get(index) else { break };
            let raw = self.attempt(address, request, deadline).await?;
            if let Some(location) = &raw.location {
                index = self.redirect(address, location).inspect_err(|error| address.failed(error))?;
                continue;
            }
            address.answered();
            if raw.status < 300 {
                self.metadata.take(&raw.body, request.operation(), &address.name);
                self.preferred.store(index, Ordering::Relaxed);
                return Ok(Answer { body: raw.body, index: raw.index, address: index });
            }
            return Err(CallError::Refused(Refusal {
                status: raw.status,
                text: error::server_text(&raw.body).unwrap_or_default(),
                path: request.path.to_owned(),
                address: index,
                address_name: address.name.clone(),
            }));
        }
        let message = "the configured addresses redirect to each other";
        Err(KeyServiceError::new(ErrorKind::Unreachable, message, "wait for the cluster to elect a leader")
            .into())
    }

    /// One exchange; an answer that is not the server's own, or says that it is away, is a failure.
    pub(super) async fn attempt(
        &self,
        address: &Address,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<Raw, KeyServiceError> {
        // A caller with hardly any time left says nothing about the address.
        let (fair, started) = (deadline.remaining() >= MIN_SHARE, Instant::now());
        let judged = exchange(address, request, deadline).await.and_then(|raw| {
            self.note_quota(raw.quota);
            let text = (raw.status >= 300).then(|| error::server_text(&raw.body)).flatten();
            let away = match raw.status {
                _ if raw.location.is_some() => None,
                ..300 if !error::is_json(&raw.body) => Some(error::not_vault(&address.name)),
                ..300 => None,
                status => error::away(&address.name, status, text.as_deref()),
            };
            match away {
                Some(error) => Err(error.with_retry_after(raw.retry_after)),
                None => Ok(raw),
            }
        });
        let outcome = match &judged {
            Ok(raw) if raw.status < 400 => "ok",
            Ok(_) => "refused",
            Err(error) => error.kind().name(),
        };
        self.metrics.vault_call(request.operation(), &address.label, outcome, started.elapsed());
        if let Err(error) = &judged
            && fair
        {
            address.failed(error);
        }
        judged
    }

    fn redirect(&self, from: &Address, location: &str) -> Result<usize, KeyServiceError> {
        let target = from.base.join(location).ok().map(|url| url.origin());
        let known = self.addresses.iter().position(|address| Some(&address.origin) == target.as_ref());
        known.ok_or_else(|| {
            let shown = target.map_or_else(|| "no address".into(), |origin| origin.ascii_serialization());
            KeyServiceError::new(
                ErrorKind::Unreachable,
                format!("{} redirects to {shown}, which is not configured", from.name),
                "add that address to vault.addresses if it is yours; a token goes nowhere else",
            )
        })
    }

    /// Sets which cluster is ours.
    pub(super) fn expect_cluster(&self, id: Option<String>) {
        *self.cluster_id.lock().unwrap_or_else(PoisonError::into_inner) = id;
    }

    pub(super) fn cluster_id(&self) -> Option<String> {
        self.cluster_id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The addresses to ask, the last good one first, without those of another cluster.
    fn order(&self) -> Vec<usize> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let rest = (0..self.addresses.len()).filter(|index| *index != preferred);
        let foreign = |index: &usize| self.addresses.get(*index).is_none_or(Address::is_other_cluster);
        std::iter::once(preferred).chain(rest).filter(|index| !foreign(index)).collect()
    }

    fn note_quota(&self, quota: Option<Quota>) {
        let Some(last) = quota else { return };
        let mut told = self.quota.lock().unwrap_or_else(PoisonError::into_inner);
        *told = Some((told.map_or(last, |(first, _)| first), last));
    }

    /// The first and the last quota that an answer told of, if any did.
    pub(super) fn quota(&self) -> Option<(Quota, Quota)> {
        *self.quota.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an answer of this address is known to be the server's own.
    pub(super) fn is_trusted(&self, index: usize) -> bool {
        self.addresses.get(index).is_some_and(|address| address.trusted)
    }

    /// How each address last answered.
    pub(super) fn states(&self) -> Vec<AddressState> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let state = |(index, address): (usize, &Address)| {
            let (reachable, reason) = address.state();
            AddressState { address: address.name.clone(), reachable, reason, preferred: index == preferred }
        };
        self.addresses.iter().enumerate().map(state).collect()
    }
}

/// The time is over: an error that says so, with what was seen before.
fn in_time(error: KeyServiceError, request: &Request<'_>) -> KeyServiceError {
    match error.kind() {
        ErrorKind::Unreachable => KeyServiceError::new(
            ErrorKind::Deadline,
            format!("{} was not answered within the caller's deadline: {error}", request.path),
            error.remedy().to_owned(),
        ),
        _ => error,
    }
}
