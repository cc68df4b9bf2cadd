//! What an observer remembers between two checks of its key service: the results of the last ones, and when the next
//! ones are due.
//!
//! Must not know I/O.

use tokio::time::Instant;

use super::publisher::ServiceId;
use super::timing::{OUTAGE_DELAYS, RECHECK_INTERVAL, REFUSAL_DELAYS};
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::retry::Backoff;

pub(super) struct Checks {
    /// The version that probes use: the newest that was read, or that an earlier run saved.
    pub version: u32,
    pub next_read: Instant,
    pub next_probe: Instant,
    last_recheck: Option<Instant>,
    /// The error of the last read and of the last probe.
    pub read_error: Option<KeyServiceError>,
    pub probe_error: Option<KeyServiceError>,
    /// Whether the refusal in one of them is confirmed.
    pub refusal_confirmed: bool,
    outage_backoff: Backoff,
    refusal_backoff: Backoff,
}

impl Checks {
    pub(super) fn new(version: u32) -> Self {
        let now = Instant::now();
        Self {
            version,
            next_read: now,
            next_probe: now,
            last_recheck: None,
            read_error: None,
            probe_error: None,
            refusal_confirmed: false,
            outage_backoff: Backoff::new(OUTAGE_DELAYS.0, OUTAGE_DELAYS.1),
            refusal_backoff: Backoff::new(REFUSAL_DELAYS.0, REFUSAL_DELAYS.1),
        }
    }

    /// Whether the last read found no key. Then nothing is wrapped: a wrap could create one.
    pub(super) fn key_is_missing(&self) -> bool {
        self.read_error.as_ref().is_some_and(|error| error.kind() == ErrorKind::NotFound)
    }

    pub(super) fn is_unreachable(&self) -> bool {
        let unreachable = |error: &KeyServiceError| {
            matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Sealed | ErrorKind::Deadline)
        };
        [&self.read_error, &self.probe_error].into_iter().flatten().any(unreachable)
    }

    /// Plans a recheck; at most one in [`RECHECK_INTERVAL`].
    pub(super) fn plan_recheck(&mut self, started: Instant) {
        let due = self.last_recheck.map_or(started, |last| last + RECHECK_INTERVAL).max(Instant::now());
        // When a probe is planned before that anyway, the hint needs no recheck. It then does not delay a later one.
        if due < self.next_probe {
            self.next_probe = due;
            self.last_recheck = Some(due);
        }
    }

    /// After a failure, plans the next check earlier or later than the interval, by the kind of the error.
    pub(super) fn plan_after_failure(&mut self, service: ServiceId) {
        let failure = match service {
            // When only the read is refused and wrapping works, the usual interval is short enough.
            ServiceId::Primary => {
                let outage = self.read_error.clone().filter(KeyServiceError::is_outage);
                self.probe_error.clone().or(outage)
            }
            ServiceId::DecryptOnly(_) => self.read_error.clone(),
        };
        let Some(error) = failure else {
            self.outage_backoff.reset();
            self.refusal_backoff.reset();
            return;
        };
        let short = match error.kind() {
            // Refused credentials are not sent again for a while, so this check usually sends nothing.
            ErrorKind::CredentialsRefused | ErrorKind::CredentialsUnreadable => true,
            ErrorKind::Throttled => false,
            kind => kind.is_outage(),
        };
        let backoff = if short { &mut self.outage_backoff } else { &mut self.refusal_backoff };
        let next = Instant::now() + backoff.next_delay().max(error.retry_after().unwrap_or_default());
        (self.next_read, self.next_probe) = (next, next);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn error(kind: ErrorKind) -> Option<KeyServiceError> {
        Some(KeyServiceError::new(kind, "it failed", "repair it"))
    }

    /// The delay until the next probe after `probe_error` and `read_error`; `None` when the plan is not changed.
    fn delay(
        probe_error: Option<KeyServiceError>,
        read_error: Option<KeyServiceError>,
        service: ServiceId,
    ) -> Option<Duration> {
        let mut checks = Checks::new(1);
        let planned = checks.next_probe;
        (checks.probe_error, checks.read_error) = (probe_error, read_error);
        checks.plan_after_failure(service);
        (checks.next_probe != planned).then(|| checks.next_probe - Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_checked_again_soon_and_a_refusal_later() {
        // With jitter, the first delay is at most doubled.
        let (soon, later) = (OUTAGE_DELAYS.0 * 2, REFUSAL_DELAYS.0);
        let primary = ServiceId::Primary;
        assert_eq!(delay(None, None, primary), None);
        assert!(delay(error(ErrorKind::Unreachable), None, primary).unwrap() <= soon);
        assert!(delay(error(ErrorKind::CredentialsRefused), None, primary).unwrap() <= soon);
        assert!(delay(error(ErrorKind::Denied), None, primary).unwrap() >= later);
        assert!(delay(error(ErrorKind::Throttled), None, primary).unwrap() >= later);
        assert!(delay(None, error(ErrorKind::Unreachable), primary).unwrap() <= soon);
        assert_eq!(
            delay(None, error(ErrorKind::Denied), primary),
            None,
            "wrapping works: the interval is enough"
        );
        assert!(delay(None, error(ErrorKind::Denied), ServiceId::DecryptOnly(0)).unwrap() >= later);
    }

    #[tokio::test(start_paused = true)]
    async fn many_recheck_hints_cause_one_probe_in_an_interval() {
        let mut checks = Checks::new(1);
        let started = Instant::now();
        checks.next_probe = started + Duration::from_secs(60);
        checks.plan_recheck(started);
        assert_eq!(checks.next_probe, started, "the first hint causes a probe at once");
        checks.next_probe = started + Duration::from_secs(60);
        checks.plan_recheck(started);
        checks.plan_recheck(started);
        assert_eq!(checks.next_probe, started + RECHECK_INTERVAL);
    }
}
