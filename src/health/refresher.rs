//! Makes all drivers read the keys of their key services when a Decrypt call has an unknown key_id.
//!
//! One read answers all requests that are waiting, and there is at most one read a second.

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::driver::LookRequest;
use super::refresh::RefreshRequests;
use super::timing::{REFRESH_INTERVAL, REFRESH_TIMEOUT};

/// Runs until nobody can request a read any more.
pub(crate) async fn run(mut requests: RefreshRequests, drivers: Vec<mpsc::Sender<LookRequest>>) {
    let mut last_read: Option<Instant> = None;
    while let Some(first) = requests.recv().await {
        if let Some(last_read) = last_read {
            tokio::time::sleep_until(last_read + REFRESH_INTERVAL).await;
        }
        let mut waiting = vec![first];
        while let Ok(request) = requests.try_recv() {
            waiting.push(request);
        }
        last_read = Some(Instant::now());
        let reads = drivers.iter().map(|driver| async move {
            let (done, wait) = oneshot::channel();
            if driver.send(LookRequest::Read(done)).await.is_ok() {
                let _answered = wait.await;
            }
        });
        // A key service that hangs delays the answer by at most this time.
        let _all = tokio::time::timeout(REFRESH_TIMEOUT, join_all(reads)).await;
        for request in waiting {
            let _gone = request.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Deadline;
    use crate::health::{Refresh, RefreshOutcome};

    #[tokio::test(start_paused = true)]
    async fn requests_at_the_same_time_share_one_read() {
        let (refresh, receivers) = Refresh::channel();
        let requests = receivers.reads;
        let (driver, mut reads) = mpsc::channel(4);
        tokio::spawn(run(requests, vec![driver]));
        let reader = tokio::spawn(async move {
            let mut count = 0;
            while let Some(LookRequest::Read(done)) = reads.recv().await {
                count += 1;
                let _ = done.send(());
            }
            count
        });
        let deadline = Deadline::after(Duration::from_secs(3));
        let all = join_all((0..50).map(|_| refresh.read(deadline))).await;
        assert!(all.iter().all(|refreshed| *refreshed == RefreshOutcome::Refreshed));
        // The first request may be answered alone. The next read, a second later, answers all others.
        assert_eq!(refresh.read(Deadline::after(Duration::from_secs(3))).await, RefreshOutcome::Refreshed);
        drop(refresh);
        assert!(reader.await.unwrap() <= 3);
    }
}
