//! How ready the agent is for an outage, with local KEKs: what the snapshot and its views show of the cache.

use std::time::Duration;

use crate::clock::BootTime;

/// How ready the agent is for an outage, with local KEKs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalKekState {
    /// Whether all that was seen so far can be unwrapped without the key service, and a seed be wrapped.
    pub ready: bool,
    /// How long the agent serves without having reached the key service.
    pub max_offline_seconds: u64,
    /// When the first of the keys ends, counted from the last contact of its key service.
    pub until: Option<BootTime>,
    /// Local KEKs in memory.
    pub keks: usize,
    /// DEK seeds in memory that the key service wrapped itself: their objects are not under a local KEK.
    pub seeds: usize,
    /// Wrapped forms that were seen and are not unwrapped.
    pub missing: usize,
    /// Whether more keys are in use than are kept: some made way.
    pub evicted: bool,
    /// When the local KEK in use was made, in seconds since 1970.
    pub made: Option<i64>,
    /// How often it was used.
    pub uses: u64,
    /// How often the key service was asked to unwrap a local KEK or a seed.
    pub unwraps: u64,
    /// Whether the keys are kept out of the swap.
    pub locked: bool,
    /// Whether systemd keeps the keys across a restart.
    pub kept: bool,
}

impl LocalKekState {
    /// How long the keys may still be used; nothing when there are none.
    pub fn left(&self, now: BootTime) -> Duration {
        self.until.map(|until| until.since(now)).unwrap_or_default()
    }

    /// What the one line says of it.
    pub fn line(&self) -> String {
        match (self.ready, self.missing) {
            (true, _) => {
                let longest = Duration::from_secs(self.max_offline_seconds);
                format!("ready for an outage of {}", humantime::format_duration(longest))
            }
            (false, 0) if self.evicted => {
                "not ready for an outage: more keys are in use than are kept; rewrite storage".into()
            }
            (false, 0) => "not ready for an outage: there is no local KEK yet".into(),
            (false, missing) => {
                format!("not ready for an outage: {missing} wrapped keys are not unwrapped yet")
            }
        }
    }
}
