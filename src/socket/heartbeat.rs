//! When the accept loop last went round: for the watchdog and `/livez`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::BootTime;

/// A loop that has not gone round for so long is stuck: it goes round at least twice a second.
const STUCK: Duration = Duration::from_secs(10);

/// The loop has not gone round for this long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("connections have not been accepted for {0:?}")]
pub(crate) struct Stalled(pub Duration);

/// The time of the last round. Clones share it.
#[derive(Clone)]
pub(crate) struct Heartbeat(Arc<AtomicU64>);

impl Heartbeat {
    /// A heartbeat that has just beaten: the loop is about to start.
    pub(super) fn new() -> Self {
        let new = Self(Arc::default());
        new.beat();
        new
    }

    pub(super) fn beat(&self) {
        let millis = u64::try_from(BootTime::now().0.as_millis()).unwrap_or(u64::MAX);
        self.0.store(millis, Ordering::Relaxed);
    }

    /// How long ago the loop went round.
    fn age(&self) -> Duration {
        let last = BootTime(Duration::from_millis(self.0.load(Ordering::Relaxed)));
        BootTime::now().since(last)
    }

    /// Whether the loop went round within `limit`.
    ///
    /// # Errors
    /// For how long it has not.
    pub(crate) fn within(&self, limit: Duration) -> Result<(), Stalled> {
        let age = self.age();
        if age <= limit { Ok(()) } else { Err(Stalled(age)) }
    }

    /// Whether the loop goes round at all.
    ///
    /// # Errors
    /// For how long it has not.
    pub(crate) fn alive(&self) -> Result<(), Stalled> {
        self.within(STUCK)
    }
}
