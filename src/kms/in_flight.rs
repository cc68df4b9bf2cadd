//! Counts the calls in flight: refuses calls beyond the limit, and reports when no call is left.

use tokio::sync::watch;

/// The calls in flight.
pub(super) struct InFlight {
    calls: watch::Sender<usize>,
    limit: usize,
}

/// One call in flight, until it is dropped.
pub(super) struct InFlightCall<'a>(&'a watch::Sender<usize>);

impl InFlight {
    pub(super) fn new(limit: usize) -> Self {
        Self { calls: watch::channel(0).0, limit }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Begins a call; `None` at the limit.
    pub(super) fn begin(&self) -> Option<InFlightCall<'_>> {
        let mut free = false;
        // Nobody waits for more calls.
        self.calls.send_if_modified(|calls| {
            free = *calls < self.limit;
            *calls += usize::from(free);
            false
        });
        free.then(|| InFlightCall(&self.calls))
    }

    pub(super) fn is_idle(&self) -> bool {
        *self.calls.borrow() == 0
    }

    /// Completes when no call is in flight. New calls may begin at any time.
    pub(super) async fn idle(&self) {
        // The sender lives as long as `self`, so this never fails.
        let _idle = self.calls.subscribe().wait_for(|calls| *calls == 0).await.is_ok();
    }
}

impl Drop for InFlightCall<'_> {
    fn drop(&mut self) {
        self.0.send_if_modified(|calls| {
            *calls = calls.saturating_sub(1);
            // Whoever begins to wait after this sees the new number.
            *calls == 0 && self.0.receiver_count() > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_beyond_the_limit_are_refused_and_the_last_one_to_end_makes_it_idle() {
        let in_flight = InFlight::new(2);
        in_flight.idle().await;
        let (first, second) = (in_flight.begin().unwrap(), in_flight.begin());
        assert!(second.is_some() && in_flight.begin().is_none());
        drop(first);
        let third = in_flight.begin();
        assert!(third.is_some(), "a call that ended makes room for another");
        drop(second);
        assert!(tokio::time::timeout(Duration::from_secs(1), in_flight.idle()).await.is_err());
        assert!(!in_flight.is_idle());
        let (idle, ()) =
            tokio::join!(tokio::time::timeout(Duration::from_secs(2), in_flight.idle()), async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                drop(third);
            });
        assert!(idle.is_ok() && in_flight.is_idle());
    }
}
