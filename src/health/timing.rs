//! The time limits of this room in one place: how often key services are checked, and how long a check may take.
//!
//! Must not hold what an administrator sets: those intervals are in `config`. The relations that must hold are
//! asserted at compile time.

use std::time::Duration;

/// Longest time for one background call: a read, or a probe's wrap and unwrap together. As long as kube-apiserver
/// gives its own calls by default.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time for the confirmation of a refusal: it may log in again, and asks every address.
pub(super) const CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(6);
/// Pause before a refusal is confirmed, and between two confirmations: a server that is just starting, or a policy
/// that is being replaced, must not end the service.
pub(super) const CONFIRMATION_PAUSE: Duration = Duration::from_secs(5);
/// How long a service must have been sealed until a refusal that this implies (`sealed = "denied"`) is confirmed.
pub(super) const SEALED_CONFIRMATION: Duration = CONFIRMATION_PAUSE;

/// Longest time for the check whether an unreachable service can be reached again.
pub(super) const REACHABILITY_TIMEOUT: Duration = Duration::from_millis(1500);
/// Pause between two such checks. With the timeout it bounds how late the end of an outage is noticed.
pub(super) const REACHABILITY_INTERVAL: Duration = Duration::from_millis(1700);
/// First and longest delay until the next check after an outage: a short outage must be over before anyone notices.
pub(super) const OUTAGE_DELAYS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// First and longest delay until the next check after a refusal, or when the service limits our requests.
pub(super) const REFUSAL_DELAYS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// Least time between two checks because of recheck hints, however many calls give one.
pub(super) const RECHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Delay until the key is read again when the last read may have met a lagging replica.
pub(super) const REPEAT_READ_DELAY: Duration = Duration::from_secs(5);
/// Least time between two observations of a lower key version that both count: replication needs it, and calls can
/// cause many reads in a row.
pub(super) const ROLLBACK_INTERVAL: Duration = Duration::from_secs(4);
// The repeated read comes up to a tenth early (jitter), and must count.
const _: () = assert!(ROLLBACK_INTERVAL.as_millis() < REPEAT_READ_DELAY.as_millis() * 9 / 10);

/// Least time between two reads because of unknown key_ids, however many Decrypt calls wait for one.
pub(super) const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time that one key service may hold up the answer to those who wait for a read.
pub(super) const REFRESH_TIMEOUT: Duration = CALL_TIMEOUT;
/// How long a key_id that a read did not make known causes no further read.
pub(super) const UNKNOWN_KEY_ID_TTL: Duration = Duration::from_secs(5);

/// Changes of addresses, tokens and local KEKs within this time are published together: on a busy agent, every call
/// changes them.
pub(super) const PUBLISH_DELAY: Duration = Duration::from_millis(200);
/// Longest pause until the end of the grace period is checked again. The timer does not count the time that a machine
/// is suspended; the grace period does.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(30);
