//! What the calls of the API server tell the drivers: requests to read the keys now, since another node may have rotated
//! the key a moment ago, and hints that the state may have changed.
//!
//! One read answers all requests that are waiting, and there is at most one read a second (see `refresher`).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::driver::LookRequest;
use super::timing::{FRESH_TIMEOUT, REFRESH_INTERVAL, UNKNOWN_KEY_ID_TTL};
use super::verdict::Hint;
use crate::clock::Deadline;

/// Requests that may wait for one read.
const MAX_WAITING: usize = 256;
/// Unknown key_ids that are remembered, so that the same one does not cause a read with each call.
const MAX_REMEMBERED: usize = 256;
/// Hints that may wait for the driver. More tell nothing new.
const MAX_HINTS: usize = 4;

/// The side that requests reads.
pub(crate) struct Refresh {
    requests: mpsc::Sender<oneshot::Sender<()>>,
    /// When a read ended last that somebody here has waited for.
    last_read: Mutex<Option<Instant>>,
    /// Key_ids that a read did not find, and when.
    unknown: Mutex<HashMap<String, Instant>>,
    hints: mpsc::Sender<Hint>,
    looks: mpsc::Sender<LookRequest>,
}

/// Requests to read. Each is answered when the new snapshot is published.
pub(crate) type RefreshRequests = mpsc::Receiver<oneshot::Sender<()>>;

/// The sides that receive.
pub(crate) struct RefreshReceivers {
    /// For the refresher.
    pub reads: RefreshRequests,
    /// For the driver of the primary.
    pub hints: mpsc::Receiver<Hint>,
    /// For the driver of the primary.
    pub looks: mpsc::Receiver<LookRequest>,
}

/// The result of a request to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefreshOutcome {
    /// The keys were read, and the snapshot is new.
    Refreshed,
    /// There was no new read: a recent one did not find the key_id.
    RecentlyUnknown,
    /// The read did not end before the deadline, or too many requests are waiting.
    TimedOut,
}

impl Refresh {
    /// The side that sends, and those that receive.
    pub(crate) fn channel() -> (Self, RefreshReceivers) {
        let (requests, reads) = mpsc::channel(MAX_WAITING);
        let (hint_sender, hints) = mpsc::channel(MAX_HINTS);
        let (look_sender, looks) = mpsc::channel(MAX_WAITING);
        let sender = Self {
            requests,
            last_read: Mutex::default(),
            unknown: Mutex::default(),
            hints: hint_sender,
            looks: look_sender,
        };
        (sender, RefreshReceivers { reads, hints, looks })
    }

    /// Where requests for the driver of the primary go.
    pub(crate) fn looks(&self) -> mpsc::Sender<LookRequest> {
        self.looks.clone()
    }

    /// Waits until the primary has been looked at, unless it answered a moment ago. All who ask at the same time share
    /// one look. Ends after [`FRESH_TIMEOUT`]: then the snapshot is as fresh as it can be.
    pub(crate) async fn fresh(&self) {
        let (done, looked) = oneshot::channel();
        if self.looks.try_send(LookRequest::Health(done)).is_ok() {
            let _late = tokio::time::timeout(FRESH_TIMEOUT, looked).await;
        }
    }

    /// The result of a call does not fit the state of the primary.
    pub(crate) fn hint(&self, hint: Hint) {
        // Where several wait, the driver looks anyway.
        let _full = self.hints.try_send(hint);
    }

    /// Requests a read of the keys because `key_id` is unknown, and waits for the new snapshot.
    pub(crate) async fn for_unknown(&self, key_id: &str, deadline: Deadline) -> RefreshOutcome {
        let recent = |at: &Instant| at.elapsed() < UNKNOWN_KEY_ID_TTL;
        if self.unknown.lock().unwrap_or_else(PoisonError::into_inner).get(key_id).is_some_and(recent) {
            return RefreshOutcome::RecentlyUnknown;
        }
        self.read(deadline).await
    }

    /// Requests a read of the keys, and waits for the new snapshot.
    pub(crate) async fn read(&self, deadline: Deadline) -> RefreshOutcome {
        let (done, wait) = oneshot::channel();
        if self.requests.try_send(done).is_err() {
            return RefreshOutcome::TimedOut;
        }
        match tokio::time::timeout_at(deadline.instant(), wait).await {
            Ok(Ok(())) => {
                *self.last_read.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                RefreshOutcome::Refreshed
            }
            Ok(Err(_)) | Err(_) => RefreshOutcome::TimedOut,
        }
    }

    /// Whether a read ended a moment ago: another one would wait, and tell nothing new.
    pub(crate) fn was_read_lately(&self) -> bool {
        let last = *self.last_read.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|at| at.elapsed() < REFRESH_INTERVAL)
    }

    /// Remembers that a read did not find `key_id`, from the first time on: calls that come meanwhile do not put off the
    /// next read. True the first time: the caller then logs it.
    pub(crate) fn remember_unknown(&self, key_id: &str) -> bool {
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        let known = unknown.get(key_id).copied();
        if known.is_some_and(|at| at.elapsed() < UNKNOWN_KEY_ID_TTL) {
            return false;
        }
        if unknown.len() >= MAX_REMEMBERED {
            unknown.retain(|_, at| at.elapsed() < UNKNOWN_KEY_ID_TTL);
            if unknown.len() >= MAX_REMEMBERED {
                unknown.clear();
            }
        }
        unknown.insert(key_id.to_owned(), Instant::now());
        known.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_id_that_stays_unknown_causes_one_read_in_five_seconds() {
        let (refresh, receivers) = Refresh::channel();
        let mut requests = receivers.reads;
        let reader = tokio::spawn(async move {
            let mut reads = 0;
            while let Some(done) = requests.recv().await {
                reads += 1;
                let _ = done.send(());
            }
            reads
        });
        let deadline = || Deadline::after(Duration::from_secs(3));
        assert_eq!(refresh.for_unknown("x", deadline()).await, RefreshOutcome::Refreshed);
        assert!(refresh.remember_unknown("x"));
        assert_eq!(refresh.for_unknown("x", deadline()).await, RefreshOutcome::RecentlyUnknown);
        assert_eq!(
            refresh.for_unknown("y", deadline()).await,
            RefreshOutcome::Refreshed,
            "another key_id is not remembered"
        );
        tokio::time::advance(UNKNOWN_KEY_ID_TTL).await;
        assert_eq!(refresh.for_unknown("x", deadline()).await, RefreshOutcome::Refreshed);
        assert!(!refresh.remember_unknown("x"));
        for number in 0..2000 {
            refresh.remember_unknown(&number.to_string());
        }
        assert!(refresh.unknown.lock().unwrap().len() <= MAX_REMEMBERED);
        drop(refresh);
        assert_eq!(reader.await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_do_not_put_off_the_next_read() {
        let (refresh, receivers) = Refresh::channel();
        let mut requests = receivers.reads;
        tokio::spawn(async move {
            while let Some(done) = requests.recv().await {
                let _ = done.send(());
            }
        });
        let mut reads = 0;
        for _ in 0..40 {
            let outcome = refresh.for_unknown("x", Deadline::after(Duration::from_secs(3))).await;
            reads += usize::from(outcome == RefreshOutcome::Refreshed);
            refresh.remember_unknown("x");
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        assert_eq!(reads, 4, "in 20 seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_ends_at_its_deadline() {
        let (refresh, _receivers) = Refresh::channel();
        assert_eq!(refresh.read(Deadline::after(Duration::from_secs(1))).await, RefreshOutcome::TimedOut);
    }
}
