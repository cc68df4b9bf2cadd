//! Asking for the key's versions ahead of their time: another node may have rotated a moment ago.
//!
//! The requests are answered together by one read, at most once a second however many ask.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::clock::Deadline;

/// Requests that may wait for one read.
const MAX_WAITING: usize = 256;
/// Unknown ids that are remembered, so that each does not cost a read at every request.
const MAX_REMEMBERED: usize = 256;
/// How long an id that a read did not make known stays unknown without another read.
const REMEMBERED: Duration = Duration::from_secs(5);

/// The asking side.
pub struct Refresh {
    requests: mpsc::Sender<oneshot::Sender<()>>,
    misses: Mutex<HashMap<String, Instant>>,
    recheck: Arc<Notify>,
}

/// The side that reads, and answers a request when the snapshot is new.
pub(crate) type RefreshRequests = mpsc::Receiver<oneshot::Sender<()>>;

/// How a refresh ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshOutcome {
    /// The snapshot is new.
    Now,
    /// The id was unknown after a read a moment ago; there was no new one.
    Lately,
    /// There was no time or no room for a read.
    NoTime,
}

impl Refresh {
    /// The two sides.
    pub fn channel() -> (Self, RefreshRequests) {
        let (requests, receiver) = mpsc::channel(MAX_WAITING);
        (Self { requests, misses: Mutex::default(), recheck: Arc::default() }, receiver)
    }

    /// A call went otherwise than the state lets expect: whoever watches the key service looks soon.
    pub fn recheck(&self) {
        self.recheck.notify_one();
    }

    /// Told of each recheck; several before a look are one.
    pub fn recheck_hints(&self) -> Arc<Notify> {
        self.recheck.clone()
    }

    /// Has the key's versions read because `key_id` is not known, and waits for the new snapshot.
    pub async fn of_unknown(&self, key_id: &str, deadline: Deadline) -> RefreshOutcome {
        let lately = |at: &Instant| at.elapsed() < REMEMBERED;
        if self.misses.lock().unwrap_or_else(PoisonError::into_inner).get(key_id).is_some_and(lately) {
            return RefreshOutcome::Lately;
        }
        self.now(deadline).await
    }

    /// Has the key's versions read and waits for the new snapshot.
    pub async fn now(&self, deadline: Deadline) -> RefreshOutcome {
        let (done, wait) = oneshot::channel();
        if self.requests.try_send(done).is_err() {
            return RefreshOutcome::NoTime;
        }
        match tokio::time::timeout_at(deadline.instant(), wait).await {
            Ok(Ok(())) => RefreshOutcome::Now,
            Ok(Err(_)) | Err(_) => RefreshOutcome::NoTime,
        }
    }

    /// Remembers that a read did not make `key_id` known. True when that is news, worth a log line.
    pub fn remember(&self, key_id: &str) -> bool {
        let mut misses = self.misses.lock().unwrap_or_else(PoisonError::into_inner);
        if misses.len() >= MAX_REMEMBERED {
            misses.retain(|_, at| at.elapsed() < REMEMBERED);
            if misses.len() >= MAX_REMEMBERED {
                misses.clear();
            }
        }
        misses.insert(key_id.to_owned(), Instant::now()).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_id_that_stays_unknown_costs_one_read_in_a_while() {
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
        assert_eq!(refresh.of_unknown("x", deadline()).await, RefreshOutcome::Now);
        assert!(refresh.remember("x"));
        assert_eq!(refresh.of_unknown("x", deadline()).await, RefreshOutcome::Lately);
        assert_eq!(
            refresh.of_unknown("y", deadline()).await,
            RefreshOutcome::Now,
            "another id is another matter"
        );
        tokio::time::advance(REMEMBERED).await;
        assert_eq!(refresh.of_unknown("x", deadline()).await, RefreshOutcome::Now);
        assert!(!refresh.remember("x"));
        for number in 0..2000 {
            refresh.remember(&number.to_string());
        }
        assert!(refresh.misses.lock().unwrap().len() <= MAX_REMEMBERED);
        drop(refresh);
        assert_eq!(reader.await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_beyond_the_deadline() {
        let (refresh, _requests) = Refresh::channel();
        assert_eq!(refresh.now(Deadline::after(Duration::from_secs(1))).await, RefreshOutcome::NoTime);
    }
}
