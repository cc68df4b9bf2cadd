//! `/metrics`: the counters of the process, and the snapshot as gauges.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::clock::BootTime;
use crate::health::{Phase, Snapshot};
use crate::local_kek::LocalKekState;
use crate::telemetry::metrics::{Metrics, PREFIX};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ServiceLabel {
    service: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// A key_id is not secret, and each service has only one at a time.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KeyLabels {
    service: String,
    key_id: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AddressLabels {
    service: String,
    address: String,
}

const PHASES: [Phase; 5] = [Phase::Starting, Phase::Ready, Phase::Degraded, Phase::Failed, Phase::Stopping];

/// The text of one scrape.
pub(super) fn render(snapshot: &Snapshot, metrics: &Metrics) -> String {
    metrics.encode(&state(snapshot))
}

/// The gauges of the snapshot, in a registry for this scrape only.
fn state(snapshot: &Snapshot) -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    let phases = Family::<PhaseLabel, Gauge>::default();
    for phase in PHASES {
        phases.get_or_create(&PhaseLabel { phase: phase.name() }).set(i64::from(phase == snapshot.phase));
    }
    registry.register("phase", "1 for the phase that the agent is in", phases);
    let reasons = Family::<ReasonLabel, Gauge>::default();
    if let Some(reason) = &snapshot.reason {
        reasons.get_or_create(&ReasonLabel { reason: reason.kind.name() }).set(1);
    }
    registry.register("reason", "1 for the reason why the agent is not ready", reasons);
    let seconds = |registry: &mut Registry, name: &str, help: &str, value: Option<i64>| {
        if let Some(value) = value {
            let gauge: Gauge = Gauge::default();
            gauge.set(value);
            registry.register_with_unit(name, help, Unit::Seconds, gauge);
        }
    };
    let now = BootTime::now();
    let whole = |duration: std::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let left = snapshot.grace_end.map(|end| whole(end.since(now)));
    seconds(&mut registry, "grace_left", "Time that Status stays ok in this outage", left);
    let ago = snapshot.last_contact.map(|contact| whole(now.since(contact)));
    seconds(&mut registry, "last_contact_age", "Time since the last good round trip", ago);
    let in_use: Gauge = Gauge::default();
    in_use.set(snapshot.config.problem.is_none().into());
    let help = "Whether the agent uses the configuration on disk, as it last read it";
    registry.register("config_in_use", help, in_use);
    services(&mut registry, snapshot);
    if let Some(state) = &snapshot.local_keks {
        local_keks(&mut registry, state, now);
    }
    registry
}

/// Whether the agent is ready for an outage, with local KEKs.
fn local_keks(registry: &mut Registry, state: &LocalKekState, now: BootTime) {
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let whole = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    let gauge = |value: i64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        gauge
    };
    for (name, help, value) in [
        (
            "offline_ready",
            "Whether the agent can unwrap everything that it has seen, and wrap a seed, without the key service",
            state.ready.into(),
        ),
        ("local_keks", "Local KEKs in memory", number(state.keks)),
        ("kept_seeds", "DEK seeds in memory that no local KEK wraps", number(state.seeds)),
        ("wrapped_keys_missing", "Wrapped keys that were seen and are not in memory", number(state.missing)),
        ("local_kek_uses", "Seeds that the local KEK in use has wrapped", whole(state.uses)),
        ("keys_locked", "Whether the keys are locked: never swapped out", state.locked.into()),
        (
            "keys_kept",
            "Whether systemd holds the keys while the agent restarts",
            state.held_by_systemd.into(),
        ),
    ] {
        registry.register(name, help, gauge(value));
    }
    let left = state.left(now).as_secs();
    let longest = state.max_offline_seconds;
    for (name, help, value) in [
        ("offline_left", "Time that the keys may be used without the key service", Some(whole(left))),
        ("offline_max", "The same right after a contact (max_offline)", Some(whole(longest))),
        ("local_kek_created_timestamp", "When the local KEK in use was made, as a unix time", state.made),
    ] {
        if let Some(value) = value {
            registry.register_with_unit(name, help, Unit::Seconds, gauge(value));
        }
    }
    let unwraps: Counter = Counter::default();
    unwraps.inc_by(state.unwraps);
    registry.register(
        "kept_key_unwraps",
        "Times that the key service was asked to unwrap a local KEK or a seed",
        unwraps,
    );
}

/// The state of each key service: its key, our token, its addresses.
fn services(registry: &mut Registry, snapshot: &Snapshot) {
    let families = [(); 7].map(|()| Family::<ServiceLabel, Gauge>::default());
    let [versions, created, readable, warnings, expiries, problems, namespaces] = &families;
    let keys = Family::<KeyLabels, Gauge>::default();
    let addresses = Family::<AddressLabels, Gauge>::default();
    for service in snapshot.services() {
        let label = ServiceLabel { service: service.name.clone() };
        readable.get_or_create(&label).set(i64::from(service.is_readable()));
        if let Some(key) = &service.key {
            versions.get_or_create(&label).set(i64::from(key.version));
            created.get_or_create(&label).set(key.created);
            warnings.get_or_create(&label).set(i64::try_from(key.warnings.len()).unwrap_or(i64::MAX));
            let labels = KeyLabels { service: service.name.clone(), key_id: key.key_id.to_string() };
            keys.get_or_create(&labels).set(1);
        }
        namespaces.get_or_create(&label).set(i64::from(service.ignored_namespace.is_some()));
        if let Some(token) = &service.token {
            problems.get_or_create(&label).set(i64::from(token.problem.is_some()));
            if let Some(expires) = token.expires {
                expiries.get_or_create(&label).set(expires);
            }
        }
        for address in &service.addresses {
            if let Some(reachable) = address.reachable {
                let labels =
                    AddressLabels { service: service.name.clone(), address: address.address.clone() };
                addresses.get_or_create(&labels).set(i64::from(reachable));
            }
        }
    }
    registry.register("key_version", "Version of the key in use", versions.clone());
    let help = "When the key version in use was made, as a unix time";
    registry.register_with_unit("key_created_timestamp", help, Unit::Seconds, created.clone());
    registry.register("key_info", "1 for the key_id that is announced, or was last read", keys);
    let help = "Whether the key is known and its last check found no problem";
    registry.register("key_readable", help, readable.clone());
    let help = "How many settings of the key should be changed; the log names them";
    registry.register("key_warnings", help, warnings.clone());
    let help = "When the token expires, as a unix time; absent when it does not expire";
    registry.register_with_unit("token_expiry_timestamp", help, Unit::Seconds, expiries.clone());
    let help = "Whether the last attempt to renew or replace the token failed";
    registry.register("token_problem", help, problems.clone());
    let help = "Whether a namespace is configured that the server ignores";
    registry.register("namespace_ignored", help, namespaces.clone());
    let help = "Whether the address answered the last request; absent before the first one";
    registry.register("vault_address_up", help, addresses);
}
