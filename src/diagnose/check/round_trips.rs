//! Round trips with the key: wrap, unwrap, and the time of each call.

use std::time::{Duration, Instant};

use super::finding::{Check, Finding};
use crate::clock::Deadline;
use crate::diagnose::millis;
use crate::key_service::{ErrorKind, KeyService as _, KeyServiceError};
use crate::vault::Inspector;

/// Why a key that cannot be used matters.
pub(super) const LOST: &str = "without the key, the agent can neither wrap nor unwrap";

/// The bytes that are wrapped and unwrapped.
const SAMPLE: [u8; 32] = [0x5a; 32];
/// The default timeout of kube-apiserver for a call, and OpenShift's.
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(10));
/// A call that takes this long is too close to the timeout.
const SLOW: Duration = Duration::from_secs(1);

/// The half of a round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Wrap,
    Unwrap,
}

/// The times of the calls, and the first error: it ends the measurement.
#[derive(Default)]
pub(super) struct RoundTrips {
    wraps: Vec<Duration>,
    unwraps: Vec<Duration>,
    failed: Option<(Call, KeyServiceError)>,
}

impl RoundTrips {
    /// Makes at most `count` round trips. Fewer when the service is slow, or half of its quota is used.
    pub(super) async fn measure(inspector: &Inspector, version: u32, count: usize, time: Duration) -> Self {
        let mut trips = Self::default();
        let begun = Instant::now();
        for _ in 0..count {
            // A few calls are enough to know that a service is slow.
            if begun.elapsed() > time * 2 {
                break;
            }
            trips.failed = trips.round_trip(inspector, version, time).await.err();
            // The agent of this node needs the same quota.
            let is_used = inspector.quota().is_some_and(|(_, last)| last.remaining * 2 < last.limit);
            if trips.failed.is_some() || is_used {
                break;
            }
        }
        trips
    }

    async fn round_trip(
        &mut self,
        inspector: &Inspector,
        version: u32,
        time: Duration,
    ) -> Result<(), (Call, KeyServiceError)> {
        let key_service = inspector.key_service();
        let deadline = Deadline::after(time.max(TIMEOUTS.1));
        let started = Instant::now();
        let wrapped = key_service.wrap(version, &SAMPLE, &[], deadline).await;
        self.wraps.push(started.elapsed());
        let ciphertext = wrapped.map_err(|error| (Call::Wrap, error))?;
        let started = Instant::now();
        let unwrapped = key_service.unwrap(&ciphertext, &[], deadline).await;
        self.unwraps.push(started.elapsed());
        let plaintext = unwrapped.map_err(|error| (Call::Unwrap, error))?;
        if *plaintext == SAMPLE {
            return Ok(());
        }
        let error = KeyServiceError::new(
            ErrorKind::Internal,
            "unwrap returned other bytes than were wrapped",
            "do not write with this key, and find out what changes the data between this node and Vault",
        );
        Err((Call::Unwrap, error))
    }

    /// The error of this call, where it failed.
    pub(super) fn error_of(&self, call: Call) -> Option<&KeyServiceError> {
        self.failed.as_ref().filter(|(failed, _)| *failed == call).map(|(_, error)| error)
    }

    /// The slowest call; `None` when one failed.
    pub(super) fn slowest(&self) -> Option<Duration> {
        if self.failed.is_some() { None } else { self.wraps.iter().chain(&self.unwraps).max().copied() }
    }

    /// The result, for the paths of Encrypt and Decrypt.
    pub(super) fn finding(&self, encrypt: &str, decrypt: &str) -> Finding {
        let Some((call, error)) = &self.failed else { return self.times(encrypt) };
        let path = if *call == Call::Wrap { encrypt } else { decrypt };
        let (seen, remedy) = (error.to_string(), error.remedy().to_owned());
        match error.kind() {
            ErrorKind::Denied => Finding::skipped(Check::RoundTrip, path, "the token may not use it"),
            ErrorKind::Throttled => {
                let why = "calls over the quota fail: writes of Secrets, and reads after a restart of the API server";
                Finding::fail(Check::Quota, path, seen, why, remedy)
            }
            _ => Finding::fail(Check::RoundTrip, path, seen, LOST, remedy),
        }
    }

    fn times(&self, encrypt: &str) -> Finding {
        let ([wrap, slowest_wrap], [unwrap, slowest_unwrap]) =
            (middle_and_max(&self.wraps), middle_and_max(&self.unwraps));
        let seen = format!(
            "{} good: wrap {:.1} ms, at most {:.1}; unwrap {:.1} ms, at most {:.1}",
            self.unwraps.len(),
            millis(wrap),
            millis(slowest_wrap),
            millis(unwrap),
            millis(slowest_unwrap)
        );
        let why = format!(
            "by default the API server gives up after {:?} ({:?} on OpenShift)",
            TIMEOUTS.0, TIMEOUTS.1
        );
        let remedy = "check the network to Vault and Vault's load (vault_request_duration in /metrics, Vault's own core.handle_request); a longer `timeout` in EncryptionConfiguration does not remove the cause";
        match slowest_wrap.max(slowest_unwrap) {
            slow if slow >= TIMEOUTS.0 => Finding::fail(Check::RoundTrip, encrypt, seen, why, remedy),
            slow if slow >= SLOW => Finding::warn(Check::RoundTrip, encrypt, seen, why, remedy),
            _ => Finding::ok(Check::RoundTrip, encrypt, seen),
        }
    }
}

/// The median and the maximum.
fn middle_and_max(times: &[Duration]) -> [Duration; 2] {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let middle = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    [middle, sorted.last().copied().unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trips(milliseconds: [u64; 2], failed: Option<(Call, KeyServiceError)>) -> RoundTrips {
        let [wrap, unwrap] = milliseconds.map(|time| vec![Duration::from_millis(time)]);
        RoundTrips { wraps: wrap, unwraps: unwrap, failed }
    }

    #[test]
    fn slow_calls_are_a_warning_and_calls_over_the_timeout_fail() {
        for (times, outcome) in [([10, 20], "ok"), ([10, 1000], "warn"), ([3000, 20], "fail")] {
            let trips = trips(times, None);
            assert_eq!(trips.finding("encrypt", "decrypt").outcome.name(), outcome, "{times:?}");
            assert_eq!(trips.slowest(), times.into_iter().max().map(Duration::from_millis));
        }
    }

    #[test]
    fn an_error_has_the_path_of_its_call() {
        let error = |kind| Some((Call::Unwrap, KeyServiceError::new(kind, "no", "do")));
        let refused = trips([1, 1], error(ErrorKind::Denied));
        assert!(refused.error_of(Call::Unwrap).is_some() && refused.error_of(Call::Wrap).is_none());
        assert_eq!(refused.slowest(), None);
        let finding = refused.finding("encrypt", "decrypt");
        assert_eq!((finding.subject.as_str(), finding.outcome.name()), ("decrypt", "skip"));
        let throttled = trips([1, 1], error(ErrorKind::Throttled)).finding("encrypt", "decrypt");
        assert!(throttled.check == Check::Quota && throttled.outcome.name() == "fail");
    }
}
