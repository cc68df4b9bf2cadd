//! How many requests the agent sends to one key service by itself: a limit that holds whatever the callers do.
//!
//! Must not know what a request is for, beyond its purpose. Calls of the API server are not counted. The pure part is
//! [`Bucket`]; times are arguments there.
//!
//! | Requests | Sustained | Burst |
//! |---|---|---|
//! | background: reads, probes, local KEKs | 1 a second; more only where the configured intervals need it | 20 |
//! | upkeep: login, renewal, lookup, confirmation of a refusal | 10 a minute for each address, and what the background has to spare | 10 for each address |
//! | `sys/health` (needs no token, is not audited) | 1 a second for each address | 20 |
//!
//! Each figure is for one key service: those that share a login share a budget of their sum, except for the reserve.
//!
//! A request that must wait waits for a moment within its own deadline: a slow answer is better than a wrong alarm.
//! Each waiting request has a reserved place, so the wait is known before it begins, and only a few can wait. All
//! others fail at once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::{Deadline, Purpose};
use crate::config::settings::Health;
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::telemetry::metrics::Metrics;

/// Requests that may be sent at once after a quiet time.
const BURST: u32 = 20;
/// Least sustained rate of the background, as the time for one request.
const INTERVAL: Duration = Duration::from_secs(1);
/// The reserve of the upkeep, for each address: a login may try them all, and a confirmation does.
const RESERVE: u32 = 10;
const RESERVE_INTERVAL: Duration = Duration::from_secs(6);
/// The background keeps this much to itself: prefetches and the upkeep take only what is above it.
const KEPT: u32 = BURST / 2;
/// Longest wait for a request's turn.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Least time between two log lines about requests that were held back.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A token bucket. In any time T it lets at most `burst + T / interval` requests pass.
#[derive(Debug)]
struct Bucket {
    burst: u32,
    interval: Duration,
    /// When it is full again. Each request moves this by one interval.
    full_at: Option<Instant>,
}

impl Bucket {
    fn new(burst: u32, interval: Duration) -> Self {
        Self { burst, interval, full_at: None }
    }

    /// How long a request would wait that leaves `keep` tokens in the bucket.
    fn wait(&self, now: Instant, keep: u32) -> Duration {
        let full_at = self.full_at.unwrap_or(now).max(now) + self.interval;
        let missing = (full_at - now) + self.interval * keep;
        missing.saturating_sub(self.interval * self.burst)
    }

    /// Takes a token for a request, and leaves `keep` in the bucket. `Ok` has the time until the request may be sent,
    /// at most `max_wait`. `Err` has the time that the request would have to wait; then nothing is taken.
    fn take(&mut self, now: Instant, keep: u32, max_wait: Duration) -> Result<Duration, Duration> {
        let wait = self.wait(now, keep);
        if wait > max_wait {
            return Err(wait);
        }
        self.full_at = Some(self.full_at.unwrap_or(now).max(now) + self.interval);
        Ok(wait)
    }
}

/// The buckets of one client.
#[derive(Debug)]
struct Buckets {
    background: Bucket,
    reserve: Bucket,
    health: Bucket,
    /// Held back since the last log line, and when that was.
    held_back: (u64, Option<Instant>),
}

/// The limit of the requests to one key service, and to those that share its login.
pub(crate) struct Budget(Option<Limited>);

struct Limited {
    service: String,
    buckets: Mutex<Buckets>,
    metrics: Metrics,
}

impl Budget {
    /// No limit: for commands that a person starts, and that end.
    pub(crate) fn unlimited() -> Self {
        Self(None)
    }

    /// The budget of `service`, with this many `addresses`. `services` is how many key services share it.
    pub(crate) fn new(
        service: &str,
        health: &Health,
        services: usize,
        addresses: usize,
        metrics: Metrics,
    ) -> Self {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).max(1);
        metrics.init_held_back(service);
        let (services, addresses) = (count(services), count(addresses));
        let buckets = Buckets {
            background: Bucket::new(BURST * services, INTERVAL.min(planned(health) / 2) / services),
            reserve: Bucket::new(RESERVE * addresses, RESERVE_INTERVAL / addresses),
            health: Bucket::new(BURST * services, INTERVAL / addresses / services),
            held_back: (0, None),
        };
        Self(Some(Limited { service: service.to_owned(), buckets: Mutex::new(buckets), metrics }))
    }

    /// How long a request for this purpose would wait now. Not for `sys/health`.
    pub(super) fn wait(&self, purpose: Purpose) -> Duration {
        match &self.0 {
            Some(limited) if purpose != Purpose::ApiServer => limited.wait(purpose),
            _ => Duration::ZERO,
        }
    }

    /// Waits until the request may be sent. Returns its deadline: the time that it waited here is none that the address
    /// took.
    ///
    /// # Errors
    /// `HeldBack` when it may not be sent in time.
    pub(super) async fn admit(
        &self,
        is_health: bool,
        address: &str,
        deadline: Deadline,
    ) -> Result<Deadline, KeyServiceError> {
        let Some(limited) = &self.0 else { return Ok(deadline) };
        let mut waited = Duration::ZERO;
        loop {
            let wait = match limited.take(is_health, deadline) {
                Ok(Duration::ZERO) => return Ok(deadline.later(waited)),
                Ok(wait) => {
                    tokio::time::sleep(wait).await;
                    return Ok(deadline.later(waited + wait));
                }
                Err(wait) => wait,
            };
            // A prefetch has no reserved place: it tries again when there should be something to spare.
            if deadline.purpose() != Purpose::Prefetch || wait > deadline.remaining_in_all() / 2 {
                return Err(limited.hold_back(is_health, address, deadline.purpose()));
            }
            tokio::time::sleep(wait).await;
            waited += wait;
        }
    }
}

impl Limited {
    fn wait(&self, purpose: Purpose) -> Duration {
        let now = Instant::now();
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        match purpose {
            Purpose::ApiServer => Duration::ZERO,
            Purpose::Background => buckets.background.wait(now, 0),
            Purpose::Prefetch => buckets.background.wait(now, KEPT),
            Purpose::Upkeep if buckets.background.wait(now, KEPT).is_zero() => Duration::ZERO,
            Purpose::Upkeep => buckets.reserve.wait(now, 0),
        }
    }

    fn take(&self, is_health: bool, deadline: Deadline) -> Result<Duration, Duration> {
        let (now, max_wait) = (Instant::now(), MAX_WAIT.min(deadline.remaining_in_all() / 2));
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        match deadline.purpose() {
            Purpose::ApiServer => Ok(Duration::ZERO),
            _ if is_health => buckets.health.take(now, 0, max_wait),
            Purpose::Background => buckets.background.take(now, 0, max_wait),
            Purpose::Prefetch => buckets.background.take(now, KEPT, Duration::ZERO),
            Purpose::Upkeep => {
                let spare = buckets.background.take(now, KEPT, Duration::ZERO);
                spare.or_else(|_| buckets.reserve.take(now, 0, max_wait))
            }
        }
    }

    /// Counts a request that is not sent, and logs it, at most one line a minute.
    fn hold_back(&self, is_health: bool, address: &str, purpose: Purpose) -> KeyServiceError {
        let purpose = if is_health { "health" } else { purpose.name() };
        self.metrics.held_back(&self.service, purpose);
        let message = format!("a request to {address} was not sent: the agent limits its own requests");
        let remedy = "if this stays, report it as a bug, with the log of that time";
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, logged) = buckets.held_back;
        let due = logged.is_none_or(|logged| now - logged >= LOG_INTERVAL);
        buckets.held_back = if due { (0, Some(now)) } else { (count + 1, logged) };
        drop(buckets);
        if due {
            tracing::warn!(
                KMS_REASON = ErrorKind::HeldBack.name(),
                KMS_REMEDY = remedy,
                "{}: {message} ({purpose}; {} since the last such line)",
                self.service,
                count + 1
            );
        }
        KeyServiceError::new(ErrorKind::HeldBack, message, remedy)
    }
}

/// The time for one request at the configured intervals, with local KEKs: a read and an unwrap for each check of the
/// key, a wrap and an unwrap for each probe, and a third of the interval less.
fn planned(health: &Health) -> Duration {
    let a_second = 2.0 / health.key_check_interval.as_secs_f64() + 3.0 / health.probe_interval.as_secs_f64();
    Duration::from_secs(1).div_f64(a_second)
}

#[cfg(test)]
#[path = "budget_tests.rs"]
mod tests;
