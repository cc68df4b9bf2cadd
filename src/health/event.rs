//! What goes into the state machine of the phases and what comes out: its rules, events and effects.

use super::verdict::Verdict;
use crate::config::settings::Grace;
use crate::key_service::{KeyDescription, KeyScope};

/// What stays the same during a run.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Where the key lives: namespace, mount and name.
    pub scope: KeyScope,
    /// `key_id_epoch`, which is part of every key_id.
    pub epoch: u32,
    /// How long KMS Status stays ok in an outage.
    pub grace: Grace,
    /// The creation time that an administrator accepts for the newest version, in seconds since 1970.
    pub expect_created: Option<i64>,
    /// Whether only key types may wrap that FIPS 140-3 approves.
    pub fips: bool,
}

/// What was observed.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The key's versions were read.
    Described(KeyDescription),
    /// The key service was looked at.
    Judged {
        verdict: Verdict,
        /// Whether the look was a round trip (wrap and unwrap) that returned the same bytes.
        worked: bool,
        /// Whether the look did not get to the key, which may be another one when that ends.
        lost: bool,
    },
    /// An administrator accepts the key as it is now.
    Accept,
    /// Time passed.
    Tick,
    /// The process stops.
    Stop,
}

/// What the owner of the state must do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Save the identity, because it or the time of the last contact changed.
    SaveIdentity,
    /// Read the key's versions again soon: this read may have met a lagging replica.
    ReadAgainSoon,
}
