//! Counters and times, in a registry that is passed by value. What the state says is not counted here:
//! it is rendered from the snapshot at each scrape.
//!
//! Labels are bounded: methods, codes, operations, outcomes, and the configured addresses. No secret, no
//! path of a login, and no error text is ever a label.

use std::collections::HashSet;
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

/// The prefix of every metric.
pub(crate) const PREFIX: &str = "kms_plugin";
/// Upper bounds of the times, in seconds: from a call in memory to the API server's longest timeout.
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
struct Outcome {
    outcome: &'static str,
}

/// Ids of keys whose data could not be unwrapped that are told apart; more count as so many.
const MAX_UNREADABLE: usize = 256;

type Times<L> = Family<L, Histogram, fn() -> Histogram>;

fn times<L: Clone + std::hash::Hash + Eq>() -> Times<L> {
    Family::new_with_constructor(|| Histogram::new(BUCKETS))
}

/// The metrics of one agent; clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    calls: Family<Call, Counter>,
    call_times: Times<Method>,
    in_flight: Gauge,
    connections: Gauge,
    vault_calls: Family<VaultCall, Counter>,
    vault_times: Times<VaultTime>,
    logins: Family<Outcome, Counter>,
    renewals: Family<Outcome, Counter>,
    rebinds: Counter,
    accept_failures: Counter,
    unreadable: Gauge,
    unreadable_ids: Mutex<HashSet<String>>,
    restarts: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut inner = Inner {
            registry: Registry::with_prefix(PREFIX),
            calls: Family::default(),
            call_times: times(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            vault_calls: Family::default(),
            vault_times: times(),
            logins: Family::default(),
            renewals: Family::default(),
            rebinds: Counter::default(),
            accept_failures: Counter::default(),
            unreadable: Gauge::default(),
            unreadable_ids: Mutex::default(),
            restarts: Counter::default(),
        };
        let registry = &mut inner.registry;
        registry.register("requests", "KMS calls answered, by method and gRPC code", inner.calls.clone());
        let help = "Time to answer a KMS call";
        registry.register_with_unit("request_duration", help, Unit::Seconds, inner.call_times.clone());
        registry.register("in_flight", "Encrypt and Decrypt calls under way", inner.in_flight.clone());
        registry.register("connections", "Connections to the socket", inner.connections.clone());
        let help = "Requests to the key service, by operation, address and outcome";
        registry.register("vault_requests", help, inner.vault_calls.clone());
        let help = "Time of one request to the key service";
        registry.register_with_unit("vault_request_duration", help, Unit::Seconds, inner.vault_times.clone());
        registry.register("logins", "Logins tried, by outcome", inner.logins.clone());
        registry.register("token_renewals", "Token renewals tried, by outcome", inner.renewals.clone());
        let help = "Times that the socket was gone or replaced and was bound again";
        registry.register("socket_rebinds", help, inner.rebinds.clone());
        let help = "Connections that could not be accepted";
        registry.register("accept_failures", help, inner.accept_failures.clone());
        let help = "key_ids whose data was asked for and could not be unwrapped, the last time";
        registry.register("unreadable_key_ids", help, inner.unreadable.clone());
        let help = "Times that a server inside the agent failed or panicked and was started again";
        registry.register("server_restarts", help, inner.restarts.clone());
        // Set once: a clock that is set later must not look like a restart.
        let started: Gauge = Gauge::default();
        started.set(unix_seconds());
        let help = "When the agent was started, as a unix time";
        registry.register_with_unit("start_timestamp", help, Unit::Seconds, started);
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What is running", build);
        Self(Arc::new(inner))
    }
}

impl Metrics {
    /// A KMS call was answered.
    pub fn call(&self, method: &'static str, code: &'static str, took: Duration) {
        self.0.calls.get_or_create(&Call { method, code }).inc();
        self.0.call_times.get_or_create(&Method { method }).observe(took.as_secs_f64());
    }

    /// Data under `key_id` was asked for: whether it could be unwrapped by a key that is there.
    pub fn readable(&self, key_id: &str, readable: bool) {
        if readable && self.0.unreadable.get() == 0 {
            return;
        }
        let mut ids = self.0.unreadable_ids.lock().unwrap_or_else(PoisonError::into_inner);
        if readable {
            ids.remove(key_id);
        } else if ids.len() < MAX_UNREADABLE {
            ids.insert(key_id.to_owned());
        }
        self.0.unreadable.set(i64::try_from(ids.len()).unwrap_or(i64::MAX));
    }

    /// How many key_ids there are whose data could not be unwrapped, the last time.
    pub fn unreadable(&self) -> i64 {
        self.0.unreadable.get()
    }

    /// A call is under way for as long as the answer is held.
    pub fn under_way(&self) -> UnderWay {
        self.0.in_flight.inc();
        UnderWay(self.0.in_flight.clone())
    }

    /// A connection is open for as long as the answer is held.
    pub fn connected(&self) -> UnderWay {
        self.0.connections.inc();
        UnderWay(self.0.connections.clone())
    }

    /// A request to the key service has ended.
    pub fn vault_call(
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

    /// A login was tried.
    pub fn login(&self, outcome: &'static str) {
        self.0.logins.get_or_create(&Outcome { outcome }).inc();
    }

    /// A renewal was tried.
    pub fn renewal(&self, outcome: &'static str) {
        self.0.renewals.get_or_create(&Outcome { outcome }).inc();
    }

    /// The socket was bound again.
    pub fn rebind(&self) {
        self.0.rebinds.inc();
    }

    /// A connection could not be accepted.
    pub fn accept_failure(&self) {
        self.0.accept_failures.inc();
    }

    /// A server inside the agent is started again in place.
    pub fn server_restart(&self) {
        self.0.restarts.inc();
    }

    /// Everything in the text format, with `state` beside it: what the snapshot says at this moment.
    pub fn encode(&self, state: &Registry) -> String {
        let mut text = String::new();
        // Writing into a String does not fail.
        let _written = encode_registry(&mut text, &self.0.registry)
            .and_then(|()| encode_registry(&mut text, state))
            .and_then(|()| encode_eof(&mut text));
        text
    }
}

/// Counts down when a call or a connection ends, however it ends.
pub struct UnderWay(Gauge);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}
