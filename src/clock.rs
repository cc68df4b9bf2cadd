//! Deadlines of calls, the clock that counts from boot, and the wall clock.
//!
//! Must not know what the time is used for. The wall clock is only for people and file formats: a change of it
//! must not end a grace period or a lease.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Why a call is made. It decides from which budget the call's requests to a key service are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// The API server waits for the result.
    ApiServer,
    /// The agent's own checks, and everything that is not marked as something else.
    #[default]
    Background,
    /// Work ahead of time that may wait for the agent's checks.
    Prefetch,
    /// What the agent needs to go on: logins, renewals, and whether a refusal is true.
    Upkeep,
}

impl Purpose {
    /// The stable name: a label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ApiServer => "api_server",
            Self::Background => "background",
            Self::Prefetch => "prefetch",
            Self::Upkeep => "upkeep",
        }
    }
}

/// The time at which a caller stops waiting for the result, and the purpose of the call. Every call to another process
/// or server takes one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    instant: Instant,
    /// That of the whole call, where this is the one of an attempt.
    whole: Instant,
    purpose: Purpose,
}

impl Deadline {
    /// A deadline `timeout` from now, of the background.
    pub(crate) fn after(timeout: Duration) -> Self {
        let instant = Instant::now() + timeout;
        Self { instant, whole: instant, purpose: Purpose::default() }
    }

    /// The same deadline for another purpose.
    pub(crate) fn of(self, purpose: Purpose) -> Self {
        Self { purpose, ..self }
    }

    /// Why the call is made.
    pub(crate) fn purpose(self) -> Purpose {
        self.purpose
    }

    /// The time left; zero when the deadline has passed.
    pub(crate) fn remaining(self) -> Duration {
        self.instant.saturating_duration_since(Instant::now())
    }

    /// Whether the deadline has passed.
    pub(crate) fn expired(self) -> bool {
        self.remaining().is_zero()
    }

    /// The earlier of this deadline and `timeout` from now, for the same purpose.
    pub(crate) fn at_most(self, timeout: Duration) -> Self {
        let instant = self.instant.min(Instant::now() + timeout);
        Self { instant, whole: instant, ..self }
    }

    /// The same for one attempt of a call: time that the attempt waits before it is sent does not count, see
    /// [`Deadline::later`].
    pub(crate) fn share(self, timeout: Duration) -> Self {
        Self { instant: self.instant.min(Instant::now() + timeout), ..self }
    }

    /// The deadline of an attempt that has waited so long: later by that, and not later than that of the call.
    pub(crate) fn later(self, waited: Duration) -> Self {
        Self { instant: (self.instant + waited).min(self.whole), ..self }
    }

    /// The deadline of an attempt that goes on elsewhere: at least `timeout` from now, and not later than that of the call.
    pub(crate) fn at_least(self, timeout: Duration) -> Self {
        Self { instant: self.instant.max(Instant::now() + timeout).min(self.whole), ..self }
    }

    /// The time left for the whole call.
    pub(crate) fn remaining_in_all(self) -> Duration {
        self.whole.saturating_duration_since(Instant::now())
    }

    /// The instant, for `tokio::time::timeout_at`.
    pub(crate) fn instant(self) -> Instant {
        self.instant
    }
}

/// Waits until `at`, for ever when there is none. Returns at once when that time has come.
///
/// A caller's own wait must not use `tokio::time::sleep_until` for that: its steps are milliseconds, so a time that has
/// come is one or two of them away.
pub(crate) async fn until(at: Option<Instant>) {
    match at {
        Some(at) if at <= Instant::now() => {}
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Time since the machine booted, suspend included (`CLOCK_BOOTTIME`, see clock_gettime(2)).
///
/// Nobody can set this clock, and a restart of the process does not reset it, so grace periods are counted on it. In
/// a file it needs [`boot_id`] beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BootTime(pub Duration);

impl BootTime {
    /// Reads the clock.
    pub(crate) fn now() -> Self {
        #[cfg(test)]
        if let Some(elapsed) = simulated::elapsed() {
            return Self(elapsed);
        }
        // CLOCK_BOOTTIME exists since Linux 2.6.39. Reading it fails for no other reason.
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
        Self(time)
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// This time plus `duration`, limited to the largest value.
    pub(crate) fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// The same moment on the wall clock, for people.
    pub(crate) fn wall(self) -> SystemTime {
        let (wall, now) = (wall(), Self::now());
        let moment = match self > now {
            true => wall.checked_add(self.since(now)),
            false => wall.checked_sub(now.since(self)),
        };
        moment.unwrap_or(UNIX_EPOCH)
    }
}

/// Environment variable with the boot id, set by the service unit: with `ProcSubset=pid`, `/proc` does not show the
/// id.
pub(crate) const BOOT_ID: &str = "KMS_PLUGIN_BOOT_ID";

/// The kernel's random id of this boot (random(4)), as 32 hexadecimal digits; `None` when it is not available.
pub(crate) fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let id = id.ok().or_else(|| std::env::var(BOOT_ID).ok())?;
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).collect();
    (digits.len() == 32).then_some(digits)
}

/// Reads the wall clock.
fn wall() -> SystemTime {
    #[cfg(test)]
    if let Some(elapsed) = simulated::elapsed() {
        return UNIX_EPOCH + simulated::EPOCH + elapsed;
    }
    SystemTime::now()
}

/// Seconds since 1970 on the wall clock, for file formats and for people.
pub(crate) fn unix_seconds() -> i64 {
    wall().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// The clocks of a simulation (`tests/simulation`). The boot clock and the wall clock follow tokio's paused clock, and
/// also count the time that the simulated machines were suspended. Each simulation has its own thread.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::Cell;

    use super::*;

    /// When each simulation starts, since 1970: the first second of 2026.
    pub(crate) const EPOCH: Duration = Duration::from_secs(1_767_225_600);
    /// The boot clock at the start of a simulation. It is not zero: an agent may compare with earlier times.
    const UPTIME: Duration = Duration::from_secs(1000);

    thread_local! {
        static START: Cell<Option<Instant>> = const { Cell::new(None) };
        static SUSPENDED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// Lets the clocks of this thread follow tokio's clock. Call it in the paused runtime.
    pub(crate) fn start() {
        START.set(Some(Instant::now()));
        SUSPENDED.set(UPTIME);
    }

    /// Suspends the machines for `duration`: only the boot clock and the wall clock go on.
    pub(crate) fn suspend(duration: Duration) {
        SUSPENDED.set(SUSPENDED.get() + duration);
    }

    /// The simulated time since boot; `None` in a thread without a simulation.
    pub(crate) fn elapsed() -> Option<Duration> {
        START.get().map(|start| start.elapsed() + SUSPENDED.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_shrinks_with_time_and_never_below_zero() {
        let deadline = Deadline::after(Duration::from_secs(3));
        assert_eq!(deadline.at_most(Duration::from_secs(1)).remaining(), Duration::from_secs(1));
        assert_eq!(deadline.at_most(Duration::from_secs(9)).remaining(), Duration::from_secs(3));
        for timeout in [1, 9].map(Duration::from_secs) {
            assert_eq!(deadline.of(Purpose::Upkeep).at_most(timeout).purpose(), Purpose::Upkeep);
        }
        let share = deadline.share(Duration::from_secs(1));
        assert_eq!((share.remaining().as_secs(), share.remaining_in_all().as_secs()), (1, 3));
        assert_eq!(share.later(Duration::from_secs(1)).remaining(), Duration::from_secs(2));
        assert_eq!(share.later(Duration::from_secs(9)).remaining(), Duration::from_secs(3));
        assert_eq!(share.at_least(Duration::from_secs(2)).remaining(), Duration::from_secs(2));
        assert_eq!(share.at_least(Duration::from_secs(9)).remaining(), Duration::from_secs(3));
        assert_eq!(share.at_least(Duration::ZERO).remaining(), Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(deadline.expired());
        assert_eq!(deadline.remaining(), Duration::ZERO);
    }

    #[test]
    fn boot_time_goes_forward_and_saturates() {
        let now = BootTime::now();
        assert!(now > BootTime::default());
        assert_eq!(now.since(now.plus(Duration::from_secs(1))), Duration::ZERO);
        assert_eq!(BootTime(Duration::MAX).plus(Duration::from_secs(1)), BootTime(Duration::MAX));
    }
}
