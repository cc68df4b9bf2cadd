//! Requests to read the keys now, ahead of their interval: another node may have rotated the key a moment ago.
//!
//! One read answers all requests that are waiting, and there is at most one read a second (see `refresher`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::timing::UNKNOWN_KEY_ID_TTL;
use crate::clock::Deadline;

/// Requests that may wait for one read.
const MAX_WAITING: usize = 256;
/// Unknown key_ids that are remembered, so that the same one does not cause a read with each call.
const MAX_REMEMBERED: usize = 256;

/// The side that requests reads.
pub(crate) struct Refresh {
    requests: mpsc::Sender<oneshot::Sender<()>>,
    /// Key_ids that a read did not find, and when.
    unknown: Mutex<HashMap<String, Instant>>,
    recheck: Arc<Notify>,
}

/// The side that reads. It answers a request when the new snapshot is published.
pub(crate) type RefreshRequests = mpsc::Receiver<oneshot::Sender<()>>;

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
    /// The two sides.
    pub(crate) fn channel() -> (Self, RefreshRequests) {
        let (requests, receiver) = mpsc::channel(MAX_WAITING);
        (Self { requests, unknown: Mutex::default(), recheck: Arc::default() }, receiver)
    }

    /// Requests a check of the primary soon, because the result of a call does not fit the state.
    pub(crate) fn recheck(&self) {
        self.recheck.notify_one();
    }

    /// Notified of each such request. Several before the next check count as one.
    pub(crate) fn recheck_hints(&self) -> Arc<Notify> {
        self.recheck.clone()
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
            Ok(Ok(())) => RefreshOutcome::Refreshed,
            Ok(Err(_)) | Err(_) => RefreshOutcome::TimedOut,
        }
    }

    /// Remembers that a read did not find `key_id`. True the first time: the caller then logs it.
    pub(crate) fn remember_unknown(&self, key_id: &str) -> bool {
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        if unknown.len() >= MAX_REMEMBERED {
            unknown.retain(|_, at| at.elapsed() < UNKNOWN_KEY_ID_TTL);
            if unknown.len() >= MAX_REMEMBERED {
                unknown.clear();
            }
        }
        unknown.insert(key_id.to_owned(), Instant::now()).is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_id_that_stays_unknown_causes_one_read_in_five_seconds() {
        let (refresh, mut requests) = Refresh::channel();
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
    async fn a_request_ends_at_its_deadline() {
        let (refresh, _requests) = Refresh::channel();
        assert_eq!(refresh.read(Deadline::after(Duration::from_secs(1))).await, RefreshOutcome::TimedOut);
    }
}
