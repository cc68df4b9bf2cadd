//! `/metrics`: the counters, and the snapshot as gauges.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::clock::BootTime;
use crate::snapshot::{Phase, Snapshot};
use crate::telemetry::metrics::{Metrics, PREFIX};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ServiceLabel {
    service: String,
}

const PHASES: [Phase; 5] = [Phase::Starting, Phase::Ready, Phase::Degraded, Phase::Failed, Phase::Stopping];

/// The text of one scrape.
pub(super) fn render(snapshot: &Snapshot, metrics: &Metrics) -> String {
    metrics.encode(&state(snapshot))
}

/// What the snapshot says, as a registry of its own for this scrape.
fn state(snapshot: &Snapshot) -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    let phases = Family::<PhaseLabel, Gauge>::default();
    for phase in PHASES {
        phases.get_or_create(&PhaseLabel { phase: phase.name() }).set(i64::from(phase == snapshot.phase));
    }
    registry.register("phase", "1 for the phase that the agent is in", phases);
    let seconds = |registry: &mut Registry, name: &str, help: &str, value: Option<i64>| {
        if let Some(value) = value {
            let gauge: Gauge = Gauge::default();
            gauge.set(value);
            registry.register_with_unit(name, help, Unit::Seconds, gauge);
        }
    };
    let now = BootTime::now();
    let whole = |duration: std::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let left = snapshot.until.map(|until| whole(until.since(now)));
    seconds(&mut registry, "grace_left", "Time that Status stays ok in this outage", left);
    let ago = snapshot.last_contact.map(|contact| whole(now.since(contact)));
    seconds(&mut registry, "last_contact_age", "Time since the last good round trip", ago);
    let families = [(); 3].map(|()| Family::<ServiceLabel, Gauge>::default());
    let [versions, created, expiries] = &families;
    for service in std::iter::once(&snapshot.primary).chain(&snapshot.decrypt_only) {
        let label = ServiceLabel { service: service.name.clone() };
        if let Some(key) = &service.key {
            versions.get_or_create(&label).set(i64::from(key.version));
            created.get_or_create(&label).set(key.created);
        }
        if let Some(expires) = service.token.as_ref().and_then(|token| token.expires) {
            expiries.get_or_create(&label).set(expires);
        }
    }
    registry.register("key_version", "Version of the key in use", versions.clone());
    let help = "When the key version in use was made, as a unix time";
    registry.register_with_unit("key_created_timestamp", help, Unit::Seconds, created.clone());
    let help = "When our token ends, as a unix time; absent when it does not end";
    registry.register_with_unit("token_expiry_timestamp", help, Unit::Seconds, expiries.clone());
    registry
}
