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

/// How often the health of a service that works is asked for: unauthenticated, and not in its audit log. Any other
/// answer counts as well.
pub(super) const HEALTH_INTERVAL: Duration = Duration::from_secs(10);
/// Longest time for that.
pub(super) const HEALTH_TIMEOUT: Duration = Duration::from_millis(1500);
/// Longest time that somebody waits who asks for the health of the service: a look that has begun, or one that begins.
pub(super) const FRESH_TIMEOUT: Duration = Duration::from_millis(1600);
const _: () = assert!(HEALTH_TIMEOUT.as_millis() < FRESH_TIMEOUT.as_millis());
/// An answer that is older does not satisfy somebody who asks for the health of the service.
pub(super) const FRESH: Duration = Duration::from_secs(4);
/// Somebody who asks each second hears within this time that the service hangs.
const HANG_SEEN: Duration = Duration::from_secs(7);
const _: () = assert!(FRESH.as_millis() + 1000 + HEALTH_TIMEOUT.as_millis() < HANG_SEEN.as_millis());
/// Longest time that the health is not asked for while something else than the service answers: a gateway blocks that
/// path.
pub(super) const BLOCKED_HEALTH: Duration = Duration::from_secs(60);
/// An idle agent sees an outage within this time.
const OUTAGE_SEEN: Duration = Duration::from_secs(15);
const _: () =
    assert!(HEALTH_INTERVAL.as_millis() * 11 / 10 + HEALTH_TIMEOUT.as_millis() < OUTAGE_SEEN.as_millis());

/// Least time between two looks at the health, and between two other looks of one kind.
pub(super) const MIN_HEALTH_PAUSE: Duration = Duration::from_millis(150);
pub(super) const MIN_LOOK_PAUSE: Duration = Duration::from_secs(1);
/// First and longest time from one look to the next during an outage. They are short, so that the agent notices at once
/// when a short outage ends.
pub(super) const OUTAGE_DELAYS: (Duration, Duration) =
    (Duration::from_millis(200), Duration::from_millis(1500));
/// The same for a service whose health is good, and which does not do its work: one look may ask every address.
pub(super) const FAILED_WORK_DELAYS: (Duration, Duration) =
    (Duration::from_millis(1500), Duration::from_secs(4));
/// A service that was away for longer than the first is read again after a random time: up to a tenth of what goes beyond,
/// and up to the second. It comes back for all nodes at the same moment, and each has a handful of requests for it. After
/// a restart or an election of a leader, nobody waits.
pub(super) const SHORT_OUTAGE: Duration = Duration::from_secs(30);
pub(super) const RETURN_SPREAD: Duration = Duration::from_secs(6);
/// How often a service that is away is read while something else answers for its health: a read may ask every address
/// twice.
pub(super) const BLOCKED_RETURN_INTERVAL: Duration = Duration::from_secs(6);
/// First and longest delay until the next look after a refusal. With jitter, the longest stays below 30 s.
pub(super) const REFUSAL_DELAYS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(27));
/// When a look is tried again that the budget held back: by then a whole round trip may pass.
pub(super) const HELD_BACK_PAUSE: Duration = Duration::from_secs(3);
/// How often a read is tried that is refused while the key itself works.
pub(super) const REFUSED_READ_INTERVAL: Duration = Duration::from_secs(27);
/// How often the key is read while neither that nor its use is allowed: a use that is allowed again shows sooner.
pub(super) const REFUSED_BOTH_INTERVAL: Duration = Duration::from_secs(300);
/// Longest pause that a service may ask for (`Retry-After`). Its health is asked for all the same.
pub(super) const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);
/// Least time between two looks because of calls, however many calls ask for one.
pub(super) const HINT_INTERVAL: Duration = Duration::from_secs(5);

/// With local KEKs: the keys are wiped this long after a refusal was confirmed.
pub(super) const WIPE_DELAY: Duration = Duration::from_secs(30);
/// And this long after the last contact, if that is earlier: the refusal may be as old.
pub(super) const WIPE_LIMIT: Duration = Duration::from_secs(90);

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
