//! How ready the agent is for an outage of the key service, with local KEKs: part of the snapshot.

use std::time::Duration;

use crate::clock::BootTime;

/// How ready the agent is for an outage, with local KEKs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalKekState {
    /// Whether the agent can, without the key service, unwrap everything that it has seen, and wrap a seed.
    pub ready: bool,
    /// How long the agent uses cached keys without a contact to the key service.
    pub max_offline_seconds: u64,
    /// When the first of the keys expires, counted from the last contact to its key service.
    pub until: Option<BootTime>,
    /// Local KEKs in memory.
    pub keks: usize,
    /// DEK seeds in memory that the key service itself wrapped (direct mode).
    pub seeds: usize,
    /// Listed wrapped keys that are not in memory.
    pub missing: usize,
    /// Whether keys were evicted: more keys are in use than the cache holds.
    pub evicted: bool,
    /// When the local KEK in use was made, in seconds since 1970.
    pub made: Option<i64>,
    /// How many seeds the local KEK in use has wrapped.
    pub uses: u64,
    /// How often the agent asked the key service to unwrap a key for the cache.
    pub unwraps: u64,
    /// Whether all keys are locked in memory, so that they are never swapped out.
    pub locked: bool,
    /// Whether systemd holds the keys while the agent restarts.
    pub held_by_systemd: bool,
}

impl LocalKekState {
    /// How long the keys may still be used; zero when there are none.
    pub(crate) fn left(&self, now: BootTime) -> Duration {
        self.until.map(|until| until.since(now)).unwrap_or_default()
    }

    /// The state in one line, for an operator.
    pub(crate) fn line(&self) -> String {
        match (self.ready, self.missing) {
            (true, _) => {
                let longest = Duration::from_secs(self.max_offline_seconds);
                format!("ready for an outage of {}", humantime::format_duration(longest))
            }
            (false, 0) if self.evicted => {
                "not ready for an outage: more keys are in use than the cache holds; rewrite storage".into()
            }
            (false, 0) => "not ready for an outage: there is no local KEK yet".into(),
            (false, missing) => {
                format!("not ready for an outage: {missing} wrapped keys are not unwrapped yet")
            }
        }
    }
}
