//! When the accept loop last ran: for the watchdog and `/livez`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::BootTime;

/// Longest time between two beats of a loop that has nothing else to do. It is half of [`STUCK`], so that one late
/// beat is no alarm.
pub(super) const IDLE_BEAT: Duration = Duration::from_secs(5);
/// A loop without a beat for this long is stuck.
const STUCK: Duration = Duration::from_secs(10);

/// The loop has not run for this long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the accept loop has not run for {0:?}")]
pub(crate) struct Stalled(pub Duration);

/// The time of the last beat. Clones share it.
///
/// The watchdog calls [`Heartbeat::within`] three times in WatchdogSec=, with half of WatchdogSec= as the limit. The
/// unit sets 30 s, so the limit is 15 s, and one beat in each [`IDLE_BEAT`] is enough. An administrator may set a
/// shorter WatchdogSec=. So each check also wakes the loop, and the next check finds the beat that this one caused.
#[derive(Clone)]
pub(crate) struct Heartbeat(Arc<Inner>);

struct Inner {
    /// Milliseconds since boot.
    last: AtomicU64,
    wake: Notify,
}

impl Heartbeat {
    /// A heartbeat with a first beat now: the loop is about to start.
    pub(super) fn new() -> Self {
        let new = Self(Arc::new(Inner { last: AtomicU64::default(), wake: Notify::new() }));
        new.beat();
        new
    }

    pub(super) fn beat(&self) {
        let millis = u64::try_from(BootTime::now().0.as_millis()).unwrap_or(u64::MAX);
        self.0.last.store(millis, Ordering::Relaxed);
    }

    /// Waits until a check asks the loop for a beat.
    pub(super) async fn requested(&self) {
        self.0.wake.notified().await;
    }

    /// Time since the last beat.
    fn age(&self) -> Duration {
        let last = BootTime(Duration::from_millis(self.0.last.load(Ordering::Relaxed)));
        BootTime::now().since(last)
    }

    /// Whether the last beat is at most `limit` old. Asks the loop for a new beat, for the next check.
    ///
    /// # Errors
    /// The age of the last beat.
    pub(crate) fn within(&self, limit: Duration) -> Result<(), Stalled> {
        let age = self.age();
        self.0.wake.notify_one();
        if age <= limit { Ok(()) } else { Err(Stalled(age)) }
    }

    /// Whether the loop runs.
    ///
    /// # Errors
    /// The age of the last beat.
    pub(crate) fn alive(&self) -> Result<(), Stalled> {
        self.within(STUCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_check_asks_for_a_beat() {
        let heartbeat = Heartbeat::new();
        std::thread::sleep(Duration::from_millis(20));
        let Stalled(age) = heartbeat.within(Duration::from_millis(10)).unwrap_err();
        assert!(age >= Duration::from_millis(10), "{age:?}");
        assert_eq!(heartbeat.alive(), Ok(()));
        // The request is stored until the loop waits for it.
        heartbeat.requested().await;
    }
}
