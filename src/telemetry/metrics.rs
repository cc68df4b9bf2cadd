//! Counters and durations, in a registry that is passed by value. Metrics of the agent's state are not here: `admin`
//! renders them from the snapshot at each scrape.
//!
//! The number of label values is limited: methods, codes, operations, outcomes, and the configured addresses. A
//! secret, a login path or an error text is never a label.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::clock::unix_seconds;
use crate::fips;

/// Prefix of every metric name.
pub(crate) const PREFIX: &str = "kms_plugin";
/// Upper bounds of the histogram buckets, in seconds: from a call that is answered from memory to the API server's
/// longest timeout.
const BUCKETS: [f64; 12] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 3.0, 10.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VaultCall {
    operation: &'static str,
    address: Arc<str>,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VaultTime {
    operation: &'static str,
    address: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HeldBack {
    service: String,
    purpose: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// The code of a call that succeeds.
pub(crate) const OK: &str = "OK";
/// The outcome of a request to the key service that succeeds.
pub(crate) const SUCCEEDED: &str = "ok";
/// Limit of the metric `unreadable_key_ids`.
const MAX_UNREADABLE: usize = 256;

type Times<L> = Family<L, Histogram, fn() -> Histogram>;

fn times<L: Clone + std::hash::Hash + Eq>() -> Times<L> {
    Family::new_with_constructor(|| Histogram::new(BUCKETS))
}

/// The metrics of one agent. Clones share the counters.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Inner>);

/// The counters of calls that succeed, or of requests. To look them up for each call costs more than to count.
pub(crate) struct Succeeded {
    calls: Counter,
    times: Histogram,
}

impl Succeeded {
    pub(crate) fn record(&self, took: Duration) {
        self.calls.inc();
        self.times.observe(took.as_secs_f64());
    }
}

struct Inner {
    registry: Registry,
    calls: Family<Call, Counter>,
    call_times: Times<Method>,
    succeeded: [(&'static str, Succeeded); 3],
    in_flight: Gauge,
    connections: Gauge,
    vault_calls: Family<VaultCall, Counter>,
    vault_times: Times<VaultTime>,
    held_back: Family<HeldBack, Counter>,
    logins: Family<Outcome, Counter>,
    renewals: Family<Outcome, Counter>,
    rebinds: Counter,
    accept_failures: Counter,
    unreadable: Gauge,
    /// Each with its version, where the servers may only be behind that.
    unreadable_ids: Mutex<HashMap<String, Option<u32>>>,
    restarts: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let (calls, call_times) = (Family::<Call, Counter>::default(), times());
        let succeeded = ["Status", "Encrypt", "Decrypt"].map(|method| {
            let calls = calls.get_or_create(&Call { method, code: OK }).clone();
            (method, Succeeded { calls, times: call_times.get_or_create(&Method { method }).clone() })
        });
        let mut inner = Inner {
            registry: Registry::with_prefix(PREFIX),
            calls,
            call_times,
            succeeded,
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            vault_calls: Family::default(),
            vault_times: times(),
            held_back: Family::default(),
            logins: Family::default(),
            renewals: Family::default(),
            rebinds: Counter::default(),
            accept_failures: Counter::default(),
            unreadable: Gauge::default(),
            unreadable_ids: Mutex::default(),
            restarts: Counter::default(),
        };
        let registry = &mut inner.registry;
        registry.register(
            "requests",
            "KMS calls that the agent has answered, by method and gRPC code",
            inner.calls.clone(),
        );
        let help = "Time to answer a KMS call";
        registry.register_with_unit("request_duration", help, Unit::Seconds, inner.call_times.clone());
        registry.register("in_flight", "Encrypt and Decrypt calls that are running", inner.in_flight.clone());
        registry.register("connections", "Connections to the socket", inner.connections.clone());
        let help = "Requests to the key service, by operation, address and outcome";
        registry.register("vault_requests", help, inner.vault_calls.clone());
        let help = "Time of one request to the key service";
        registry.register_with_unit("vault_request_duration", help, Unit::Seconds, inner.vault_times.clone());
        let help =
            "Requests to the key service that the agent did not send, because it limits its own requests";
        registry.register("requests_held_back", help, inner.held_back.clone());
        registry.register("logins", "Login attempts, by outcome", inner.logins.clone());
        registry.register("token_renewals", "Token renewal attempts, by outcome", inner.renewals.clone());
        let help = "Times that the socket was deleted or replaced and the agent bound it again";
        registry.register("socket_rebinds", help, inner.rebinds.clone());
        let help = "Connections that the agent could not accept";
        registry.register("accept_failures", help, inner.accept_failures.clone());
        let help = "key_ids whose data an API server requested, and whose last unwrap failed";
        registry.register("unreadable_key_ids", help, inner.unreadable.clone());
        let help = "Times that a server inside the agent failed or panicked and was restarted";
        registry.register("server_restarts", help, inner.restarts.clone());
        // Set once: if somebody sets the clock later, that must not look like a restart.
        let started: Gauge = Gauge::default();
        started.set(unix_seconds());
        let help = "When the agent started, as a unix time";
        registry.register_with_unit("start_timestamp", help, Unit::Seconds, started);
        let in_fips_mode: Gauge = Gauge::default();
        in_fips_mode.set(fips::BUILD.into());
        let help = "Whether the cryptography comes from a FIPS 140-3 module";
        registry.register("fips_mode", help, in_fips_mode);
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version that is running", build);
        Self(Arc::new(inner))
    }
}

impl Inner {
    fn set_unreadable(&self, ids: &HashMap<String, Option<u32>>) {
        self.unreadable.set(i64::try_from(ids.len()).unwrap_or(i64::MAX));
    }
}

impl Metrics {
    /// Counts an answered KMS call.
    pub(crate) fn call(&self, method: &'static str, code: &'static str, took: Duration) {
        if code == OK
            && let Some((_, succeeded)) = self.0.succeeded.iter().find(|(known, _)| *known == method)
        {
            succeeded.record(took);
            return;
        }
        self.0.calls.get_or_create(&Call { method, code }).inc();
        self.0.call_times.get_or_create(&Method { method }).observe(took.as_secs_f64());
    }

    /// Records whether the last unwrap of data under `key_id` succeeded.
    pub(crate) fn readable(&self, key_id: &str, readable: bool) {
        if readable && self.0.unreadable.get() == 0 {
            return;
        }
        let mut ids = self.0.unreadable_ids.lock().unwrap_or_else(PoisonError::into_inner);
        if readable {
            ids.remove(key_id);
        } else if ids.len() < MAX_UNREADABLE {
            ids.insert(key_id.to_owned(), None);
        }
        self.0.set_unreadable(&ids);
    }

    /// Records that data under `key_id` could not be unwrapped, perhaps because the servers are behind its `version`.
    pub(crate) fn unreadable_yet(&self, key_id: &str, version: u32) {
        let mut ids = self.0.unreadable_ids.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.len() < MAX_UNREADABLE {
            ids.entry(key_id.to_owned()).or_insert(Some(version));
        }
        self.0.set_unreadable(&ids);
    }

    /// Forgets the key_ids of [`Self::unreadable_yet`] up to the version `newest`: no server is behind these.
    pub(crate) fn forget_unreadable(&self, newest: u32) {
        let mut ids = self.0.unreadable_ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.retain(|_, version| version.is_none_or(|version| version > newest));
        self.0.set_unreadable(&ids);
    }

    /// The number of key_ids whose last unwrap failed.
    pub(crate) fn unreadable(&self) -> i64 {
        self.0.unreadable.get()
    }

    /// Counts a running call until the result is dropped.
    pub(crate) fn under_way(&self) -> UnderWay {
        self.0.in_flight.inc();
        UnderWay(self.0.in_flight.clone())
    }

    /// Counts an open connection until the result is dropped.
    pub(crate) fn connected(&self) -> UnderWay {
        self.0.connections.inc();
        UnderWay(self.0.connections.clone())
    }

    /// Counts a request to the key service that has ended.
    pub(crate) fn vault_call(
        &self,
        operation: &'static str,
        address: &Arc<str>,
        outcome: &'static str,
        took: Duration,
    ) {
        let address = address.clone();
        let time = VaultTime { operation, address: address.clone() };
        self.0.vault_calls.get_or_create(&VaultCall { operation, address, outcome }).inc();
        self.0.vault_times.get_or_create(&time).observe(took.as_secs_f64());
    }

    /// The counters of the requests of this operation to this address that succeed.
    pub(crate) fn succeeded(&self, operation: &'static str, address: &Arc<str>) -> Succeeded {
        let call = VaultCall { operation, address: address.clone(), outcome: SUCCEEDED };
        let time = VaultTime { operation, address: address.clone() };
        Succeeded {
            calls: self.0.vault_calls.get_or_create(&call).clone(),
            times: self.0.vault_times.get_or_create(&time).clone(),
        }
    }

    /// Shows the count of a service before there is anything to count, so that an alert sees the first increase.
    pub(crate) fn init_held_back(&self, service: &str) {
        for purpose in ["background", "prefetch", "upkeep", "health"] {
            let _shown =
                self.0.held_back.get_or_create(&HeldBack { service: service.to_owned(), purpose }).get();
        }
    }

    /// Counts a request to the key service that was not sent.
    pub(crate) fn held_back(&self, service: &str, purpose: &'static str) {
        self.0.held_back.get_or_create(&HeldBack { service: service.to_owned(), purpose }).inc();
    }

    /// Counts a login attempt.
    pub(crate) fn login(&self, outcome: &'static str) {
        self.0.logins.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts a renewal attempt.
    pub(crate) fn renewal(&self, outcome: &'static str) {
        self.0.renewals.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts that the agent bound its socket again.
    pub(crate) fn rebind(&self) {
        self.0.rebinds.inc();
    }

    /// Counts a connection that the agent could not accept.
    pub(crate) fn accept_failure(&self) {
        self.0.accept_failures.inc();
    }

    /// Counts the restart of a server inside the agent.
    pub(crate) fn server_restart(&self) {
        self.0.restarts.inc();
    }

    /// All metrics in the OpenMetrics text format. `state` has the metrics of the current snapshot.
    pub(crate) fn encode(&self, state: &Registry) -> String {
        let mut text = String::new();
        // Writing into a String never fails.
        let _written = encode_registry(&mut text, &self.0.registry)
            .and_then(|()| encode_registry(&mut text, state))
            .and_then(|()| encode_eof(&mut text));
        text
    }
}

/// Decrements the gauge when a call or a connection ends, however it ends.
pub(crate) struct UnderWay(Gauge);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}
