//! `[local_kek]`: whether the agent wraps DEK seeds with a local KEK, and the limits of local KEKs.

use std::time::Duration;

use serde::Deserialize;

use super::validate::Validator;

/// The limits of local KEKs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// How long the agent uses local KEKs without contact to the key service.
    pub max_offline: Duration,
    /// The age at which the agent makes a new local KEK.
    pub max_age: Duration,
    /// How many seeds one local KEK wraps. Its nonces are random, so 2^32 is the limit (NIST SP 800-38D, 8.3).
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

/// The policy; `None` when local KEKs are off. `outage_grace` is the setting as written: nobody may set both.
pub(super) fn policy(
    raw: &RawLocalKek,
    outage_grace: Option<&str>,
    check: &mut Validator<'_>,
) -> Option<Policy> {
    let max_offline = check.duration("local_kek.max_offline", raw.max_offline.as_deref(), "1s", "30d");
    let max_age = check.duration("local_kek.max_age", raw.max_age.as_deref(), "1s", "90d");
    let max_uses = check.count("local_kek.max_uses", raw.max_uses, 1..=1_000_000_000);
    if raw.enabled && outage_grace.is_some() {
        check.problem(
            "health.outage_grace",
            "cannot be set with local_kek.enabled: then local_kek.max_offline says how long Status stays ok in an outage; remove health.outage_grace",
        );
    }
    let max_uses = u64::try_from(max_uses).unwrap_or(u64::MAX);
    raw.enabled.then_some(Policy { max_offline, max_age, max_uses })
}
