//! `[local_kek]`: whether the agent wraps with a key of its own, and within which bounds.

use std::time::Duration;

use serde::Deserialize;

use super::validate::Validator;

/// What an administrator allows of local KEKs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long keys are used without having reached the key service.
    pub max_offline: Duration,
    /// The age at which the local KEK that wraps is replaced.
    pub max_age: Duration,
    /// How many seeds one local KEK wraps at most. Its nonces are random (NIST SP 800-38D, 8.3: 2^32).
    pub max_uses: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLocalKek {
    enabled: bool,
    max_offline: Option<String>,
    max_age: Option<String>,
    max_uses: Option<i64>,
}

/// The policy, `None` when local KEKs are off; `outage_grace` as it was written, which cannot stand beside it.
pub(super) fn policy(
    raw: &RawLocalKek,
    outage_grace: Option<&str>,
    check: &mut Validator<'_>,
) -> Option<Policy> {
    let max_offline = check.duration("local_kek.max_offline", raw.max_offline.as_deref(), "8h", "1s", "30d");
    let max_age = check.duration("local_kek.max_age", raw.max_age.as_deref(), "24h", "1s", "90d");
    let max_uses = check.count("local_kek.max_uses", raw.max_uses, 1_000_000, 1..=1_000_000_000);
    if raw.enabled && outage_grace.is_some() {
        check.problem(
            "health.outage_grace",
            "stands beside local_kek.enabled: with local KEKs, local_kek.max_offline says how long an outage is ridden out; remove health.outage_grace",
        );
    }
    let max_uses = u64::try_from(max_uses).unwrap_or(u64::MAX);
    raw.enabled.then_some(Policy { max_offline, max_age, max_uses })
}
