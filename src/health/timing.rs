//! The time limits of this room in one place: how often key services are checked, and how long a check may take.
//!
//! Must not hold what an administrator sets: those intervals are in `config`. The relations that must hold are
//! asserted at compile time.

use std::time::Duration;

/// Longest time for one background call: a read, or a probe's wrap and unwrap together. It is the default timeout of
/// kube-apiserver's own calls.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time for the confirmation of a refusal: it may log in again, and asks every address.
pub(super) const CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(6);
/// Pause before the last attempt to confirm a refusal: a server that is just starting, or a policy that is being
/// replaced, must not make the agent fail.
pub(super) const CONFIRMATION_PAUSE: Duration = Duration::from_secs(5);
/// With `health.sealed = "denied"`, a sealed service counts as a refusal. The refusal is confirmed when the service has
/// been sealed for this long.
pub(super) const SEALED_CONFIRMATION: Duration = CONFIRMATION_PAUSE;

/// Longest time for the check whether an unreachable service can be reached again.
pub(super) const REACHABILITY_TIMEOUT: Duration = Duration::from_millis(1500);
/// Pause between two such checks. With the timeout it bounds how late the end of an outage is noticed.
pub(super) const REACHABILITY_INTERVAL: Duration = Duration::from_millis(1700);
/// First and longest delay until the next check during an outage. They are short, so that the agent notices at once
/// when a short outage ends.
pub(super) const OUTAGE_DELAYS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// First and longest delay until the next check after a refusal, or when the service limits our requests.
pub(super) const REFUSAL_DELAYS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// Least time between two checks because of recheck hints, however many calls give one.
pub(super) const RECHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Delay until the key is read again when the last read may have met a lagging replica.
pub(super) const REPEAT_READ_DELAY: Duration = Duration::from_secs(5);
/// Least time between two observations of a lower key version that both count. A replica needs this time to catch up,
/// and calls can cause many reads in a row.
pub(super) const ROLLBACK_INTERVAL: Duration = Duration::from_secs(4);
// The repeated read comes up to a tenth early (jitter), and must count.
const _: () = assert!(ROLLBACK_INTERVAL.as_millis() < REPEAT_READ_DELAY.as_millis() * 9 / 10);

/// Least time between two reads because of unknown key_ids, however many Decrypt calls wait for one.
pub(super) const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time that one key service may delay the answer to the requests that wait for a read.
pub(super) const REFRESH_TIMEOUT: Duration = CALL_TIMEOUT;
/// When a read does not find a key_id, the same key_id causes no further read for this time.
pub(super) const UNKNOWN_KEY_ID_TTL: Duration = Duration::from_secs(5);

/// Changes of addresses, tokens and local KEKs within this time are published together: on a busy agent, every call
/// changes them.
pub(super) const PUBLISH_DELAY: Duration = Duration::from_millis(200);
/// Longest pause until the end of the grace period is checked again. The timer does not count the time that a machine
/// is suspended; the grace period does.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(30);
