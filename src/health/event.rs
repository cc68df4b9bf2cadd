//! What goes into the state machine of the phases and what comes out: its rules, events and effects.

use crate::config::settings::Grace;
use crate::key_service::{KeyDescription, KeyScope, KeyServiceError};

/// What stays the same during a run.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Where the key lives: namespace, mount and name.
    pub scope: KeyScope,
    /// `key_id_epoch`, which is part of every key_id.
    pub epoch: u32,
    /// How long KMS Status stays ok in an outage.
    pub grace: Grace,
    /// Whether a sealed service counts as a refusal.
    pub sealed_is_denied: bool,
    /// The creation time that an administrator accepts for the newest version, in seconds since 1970.
    pub expect_created: Option<i64>,
}

/// What was observed.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The key's versions were read.
    Described(KeyDescription),
    /// The key's versions could not be read.
    DescribeFailed(KeyServiceError),
    /// A round trip (wrap and unwrap) returned the same bytes.
    RoundTripSucceeded,
    /// A round trip failed.
    RoundTripFailed {
        error: KeyServiceError,
        /// Whether a refusal is confirmed: it was repeated, at every address, after a fresh login.
        confirmed: bool,
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
