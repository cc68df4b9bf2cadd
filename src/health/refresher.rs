//! Has every key service read its key's versions when a Decrypt met an unknown key_id: one read for all
//! who ask, and at most one a second.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::refresh::RefreshRequests;

/// Least time between two reads.
const PACE: Duration = Duration::from_secs(1);
/// Longest wait for a key service.
const LONGEST: Duration = Duration::from_secs(3);

/// Runs until the asking side is gone.
pub(crate) async fn run(mut requests: RefreshRequests, observers: Vec<mpsc::Sender<oneshot::Sender<()>>>) {
    let mut last: Option<Instant> = None;
    while let Some(first) = requests.recv().await {
        if let Some(last) = last {
            tokio::time::sleep_until(last + PACE).await;
        }
        let mut waiting = vec![first];
        while let Ok(request) = requests.try_recv() {
            waiting.push(request);
        }
        last = Some(Instant::now());
        let reads = observers.iter().map(|observer| async move {
            let (done, wait) = oneshot::channel();
            if observer.send(done).await.is_ok() {
                let _answered = wait.await;
            }
        });
        // A key service that hangs does not keep the others' answer back for longer than this.
        let _all = tokio::time::timeout(LONGEST, join_all(reads)).await;
        for request in waiting {
            let _gone = request.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Deadline;
    use crate::health::{Refresh, RefreshOutcome};

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_share_one_read() {
        let (refresh, requests) = Refresh::channel();
        let (observer, mut reads) = mpsc::channel::<oneshot::Sender<()>>(4);
        tokio::spawn(run(requests, vec![observer]));
        let reader = tokio::spawn(async move {
            let mut count = 0;
            while let Some(done) = reads.recv().await {
                count += 1;
                let _ = done.send(());
            }
            count
        });
        let deadline = Deadline::after(Duration::from_secs(3));
        let all = join_all((0..50).map(|_| refresh.now(deadline))).await;
        assert!(all.iter().all(|refreshed| *refreshed == RefreshOutcome::Now));
        // The first may be read alone; the second waits for its second and takes the rest along.
        assert_eq!(refresh.now(Deadline::after(Duration::from_secs(3))).await, RefreshOutcome::Now);
        drop(refresh);
        assert!(reader.await.unwrap() <= 3);
    }
}
