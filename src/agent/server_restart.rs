//! Restarts a server within the process when it fails or panics. After a few times, the process ends with the cause,
//! and systemd restarts it.

use std::collections::VecDeque;
use std::future::Future;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::error::TaskError;
use super::timing::{MAX_RESTARTS, RESTART_WINDOW};
use crate::telemetry::metrics::Metrics;

/// Runs what `serve` makes until it ends without an error, or fails too often.
pub(super) async fn in_place<F>(
    name: &str,
    metrics: Metrics,
    mut serve: impl FnMut() -> F,
) -> Result<(), TaskError>
where
    F: Future<Output = Result<(), TaskError>> + Send + 'static,
{
    let mut failures = VecDeque::new();
    loop {
        // In a task of its own a panic ends only that task. The set ends the task when it is dropped.
        let mut task = JoinSet::new();
        task.spawn(serve());
        let cause = match task.join_next().await {
            Some(Ok(Ok(()))) | None => return Ok(()),
            Some(Ok(Err(cause))) => cause,
            Some(Err(panic)) => TaskError::Panicked(panic.to_string()),
        };
        let now = Instant::now();
        failures.push_back(now);
        failures.retain(|at| now - *at < RESTART_WINDOW);
        if failures.len() > MAX_RESTARTS {
            let last = Box::new(cause);
            return Err(TaskError::TooManyFailures {
                failures: failures.len(),
                window: RESTART_WINDOW,
                last,
            });
        }
        metrics.server_restart();
        tracing::error!("the {name} failed, restarting it: {cause}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use prometheus_client::registry::Registry;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_or_panics_is_restarted_three_times_a_minute() {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        let metrics = Metrics::default();
        let error = in_place("test server", metrics.clone(), move || {
            let run = counted.fetch_add(1, Ordering::Relaxed);
            async move { if run.is_multiple_of(2) { panic!("broken") } else { Err(TaskError::NoPublisher) } }
        })
        .await
        .unwrap_err();
        assert_eq!(runs.load(Ordering::Relaxed), 4);
        let text = metrics.encode(&Registry::default());
        assert!(text.contains("kms_plugin_server_restarts_total 3\n"), "{text}");
        assert!(matches!(error, TaskError::TooManyFailures { failures: 4, .. }), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn rare_failures_never_end_the_process() {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        let served = in_place("test server", Metrics::default(), move || {
            let run = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(Duration::from_secs(31)).await;
                if run < 20 { Err(TaskError::NoPublisher) } else { Ok(()) }
            }
        });
        assert!(served.await.is_ok());
        assert_eq!(runs.load(Ordering::Relaxed), 21);
    }
}
