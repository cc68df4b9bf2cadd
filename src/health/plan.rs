//! When a key service is looked at next: the intervals while it works, and the delays after a fault.
//!
//! Pure. Whatever is planned, [`Plan::not_before`] keeps looks of one kind apart, so that no fault makes a loop.

use std::time::Duration;

use tokio::time::Instant;

use super::timing::{
    BLOCKED_HEALTH, BLOCKED_RETURN_INTERVAL, FAILED_WORK_DELAYS, HEALTH_INTERVAL, HELD_BACK_PAUSE,
    HINT_INTERVAL, MAX_RETRY_AFTER, MIN_HEALTH_PAUSE, MIN_LOOK_PAUSE, OUTAGE_DELAYS, REFUSAL_DELAYS,
    REFUSED_BOTH_INTERVAL, REFUSED_READ_INTERVAL, REPEAT_READ_DELAY, RETURN_SPREAD, SHORT_OUTAGE,
};
use crate::key_service::KeyServiceError;
use crate::retry::{doubled, spread, spread_early};

/// How often in a row something else may answer for the health until it is asked for less often.
const USUAL_BLOCKS: u32 = 3;

/// One way to look at a key service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Asks for its health, without credentials.
    Health,
    /// Reads the key's versions.
    Read,
    /// Wraps and unwraps.
    RoundTrip,
    /// Asks each address again: to wrap, or only to read the key.
    Confirm { wrap: bool },
}

impl Look {
    fn index(self) -> usize {
        match self {
            Self::Health => 0,
            Self::Read => 1,
            Self::RoundTrip => 2,
            Self::Confirm { .. } => 3,
        }
    }
}

/// The intervals while a key service works.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub read: Duration,
    pub round_trip: Duration,
}

/// When each look is due.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pace: Pace,
    health: Instant,
    read: Instant,
    round_trip: Instant,
    /// When the last look began.
    began: Instant,
    /// When the next look of each kind may begin: apart from the last one, whatever is planned.
    earliest: [Option<Instant>; 4],
    last_answer: Option<Instant>,
    /// Since when the health of the service has not been good.
    away_since: Option<Instant>,
    /// When a service that is away is looked at again.
    back: Instant,
    /// The service asked for a pause until then. Its health may be asked for all the same.
    paused_until: Option<Instant>,
    health_blocked_until: Option<Instant>,
    /// How often in a row something else answered for the health.
    health_blocks: u32,
    /// When a service that is away is read again while its health is blocked.
    blocked_return_at: Option<Instant>,
    outages: u32,
    refusals: u32,
    proofs: u32,
    catch_ups: u32,
    last_hurried: Option<Instant>,
}

impl Plan {
    /// Everything is due now, but the health: a read says more.
    pub(super) fn new(pace: Pace, now: Instant) -> Self {
        Self {
            pace,
            health: now + HEALTH_INTERVAL,
            read: now,
            round_trip: now,
            began: now,
            earliest: [None; 4],
            last_answer: None,
            away_since: None,
            back: now,
            paused_until: None,
            health_blocked_until: None,
            health_blocks: 0,
            blocked_return_at: None,
            outages: 0,
            refusals: 0,
            proofs: 0,
            catch_ups: 0,
            last_hurried: None,
        }
    }

    /// The look that is due first. Where several are, a read goes first: it shows what may be wrapped with.
    pub(super) fn first_due(&self, may_wrap: bool) -> (Look, Instant) {
        let mut first = (Look::Read, self.read);
        if may_wrap && self.round_trip < first.1 {
            first = (Look::RoundTrip, self.round_trip);
        }
        if self.health < first.1 {
            first = (Look::Health, self.health);
        }
        first
    }

    /// When the health is asked for.
    pub(super) fn health_at(&self) -> Instant {
        self.health
    }

    /// When the key is read.
    pub(super) fn read_at(&self) -> Instant {
        self.read
    }

    /// The time for a look that is due `at`: apart from the last one of its kind.
    pub(super) fn not_before(&self, look: Look, at: Instant) -> Instant {
        let earliest = self.earliest.get(look.index()).copied().flatten();
        let spaced = earliest.map_or(at, |earliest| at.max(earliest));
        match (look, self.paused_until) {
            (Look::Read | Look::RoundTrip, Some(until)) => spaced.max(until),
            _ => spaced,
        }
    }

    /// Least time between two looks of one kind. An administrator may have configured shorter intervals.
    fn pause(&self) -> Duration {
        MIN_LOOK_PAUSE.min(self.pace.read).min(self.pace.round_trip)
    }

    fn set_earliest(&mut self, look: Look, at: Instant) {
        if let Some(earliest) = self.earliest.get_mut(look.index()) {
            *earliest = Some(at);
        }
    }

    pub(super) fn last_answer(&self) -> Option<Instant> {
        self.last_answer
    }

    /// A look has ended: plans the next one of its kind.
    pub(super) fn looked(&mut self, look: Look, began: Instant, now: Instant, chance: f64) {
        self.began = began;
        self.set_earliest(look, now + if look == Look::Health { MIN_HEALTH_PAUSE } else { self.pause() });
        self.last_answer = Some(now);
        match look {
            Look::Health => {}
            // Each node notices a rotation within the configured interval.
            Look::Read => self.read = now + spread_early(self.pace.read, chance),
            Look::RoundTrip => self.round_trip = now + spread(self.pace.round_trip, chance),
            Look::Confirm { .. } => {}
        }
        // Each answer tells that the service is there. Its health need not be asked for so soon.
        self.health = self.health_blocked_until.unwrap_or(now).max(now + spread(HEALTH_INTERVAL, chance));
    }

    /// A look was not done, or only a part of it, since the budget was used up: until the next one, the budget must
    /// have enough for a whole look.
    pub(super) fn held_back(&mut self, look: Look, now: Instant) {
        self.set_earliest(look, now + HELD_BACK_PAUSE);
        self.set_due(look, now + HELD_BACK_PAUSE);
    }

    /// When a look of this kind is due; `None` for a confirmation, which the machine plans by itself.
    fn due(&mut self, look: Look) -> Option<&mut Instant> {
        match look {
            Look::Health => Some(&mut self.health),
            Look::Read => Some(&mut self.read),
            Look::RoundTrip => Some(&mut self.round_trip),
            Look::Confirm { .. } => None,
        }
    }

    pub(super) fn set_due(&mut self, look: Look, at: Instant) {
        if let Some(due) = self.due(look) {
            *due = at;
        }
    }

    /// Looks at once because of a call: at most every [`HINT_INTERVAL`], however many calls there are.
    pub(super) fn hurry(&mut self, look: Look, now: Instant) {
        let at = if look == Look::Health { now } else { self.hurried(now) };
        if let Some(due) = self.due(look) {
            *due = at.min(*due);
        }
    }

    /// When a look is due that a call asks for.
    pub(super) fn hurried(&mut self, now: Instant) -> Instant {
        let at =
            self.last_hurried.map_or(now, |last| now.max(last + HINT_INTERVAL.min(self.pace.round_trip)));
        if at == now {
            self.last_hurried = Some(now);
        }
        at
    }

    /// The service served a call: it does not ask for a pause any more.
    pub(super) fn end_pause(&mut self) {
        self.paused_until = None;
    }

    /// The service works: later faults start with the first delays again.
    pub(super) fn works(&mut self) {
        (self.outages, self.refusals, self.proofs, self.catch_ups) = (0, 0, 0, 0);
        (self.paused_until, self.away_since) = (None, None);
    }

    pub(super) fn read_again_soon(&mut self, now: Instant, chance: f64) {
        self.read = now + spread(REPEAT_READ_DELAY.min(self.pace.read), chance);
    }

    /// The key may not be read: it is tried again sooner than the interval.
    pub(super) fn retry_read(&mut self, now: Instant, chance: f64) {
        self.read = now + spread(REFUSED_READ_INTERVAL.min(self.pace.read), chance);
    }

    /// The key may not be read either, while it is refused.
    pub(super) fn read_refused(&mut self, now: Instant, chance: f64) {
        self.read = now + spread(REFUSED_BOTH_INTERVAL, chance);
    }

    /// The health of the service cannot be asked for: not for a while, and longer each time, since the fault of a proxy
    /// may look the same for seconds.
    pub(super) fn block_health(&mut self, now: Instant) {
        let longer = self.health_blocks.saturating_sub(USUAL_BLOCKS).min(10);
        let pause = HEALTH_INTERVAL.saturating_mul(1 << longer).min(BLOCKED_HEALTH);
        self.health_blocks = self.health_blocks.saturating_add(1);
        self.health_blocked_until = Some(now + pause);
        self.health = now + pause;
    }

    /// The service itself answered for its health, or nobody did.
    pub(super) fn unblock_health(&mut self) {
        (self.health_blocks, self.health_blocked_until) = (0, None);
        self.health = self.last_answer.map_or(self.health, |last| last + HEALTH_INTERVAL);
    }

    pub(super) fn health_is_blocked(&self, now: Instant) -> bool {
        self.health_blocked_until.is_some_and(|until| until > now)
    }

    /// The service is away: plans when it is looked at again.
    pub(super) fn lost(&mut self, error: &KeyServiceError, look: Look, now: Instant, chance: f64) {
        // A service whose health is good and which does not do its work is asked less often: that costs it more.
        let delays = if look == Look::Health { OUTAGE_DELAYS } else { FAILED_WORK_DELAYS };
        self.plan_return(delays, now, chance);
        // Where only its work fails, each node tries that at times of its own already.
        self.away_since = (look == Look::Health).then(|| self.away_since.unwrap_or(now));
        self.paused_until = error.retry_after().map(|pause| now + pause.min(MAX_RETRY_AFTER));
    }

    fn plan_return(&mut self, limits: (Duration, Duration), now: Instant, chance: f64) {
        // From one look to the next: one that hangs has waited long enough.
        self.back = now.max(self.began + spread(doubled(limits, self.outages), chance));
        self.outages = self.outages.saturating_add(1);
    }

    /// Something else than the service, which is away, answered for its health. The key is read all the same, but not
    /// each time: while a proxy answers everything, that would use up the budget. Returns whether it is read now.
    pub(super) fn return_blocked(&mut self, now: Instant, chance: f64) -> bool {
        if self.blocked_return_at.is_some_and(|at| at > now) {
            self.plan_return(OUTAGE_DELAYS, now, chance);
            return false;
        }
        self.blocked_return_at = Some(now + spread(BLOCKED_RETURN_INTERVAL, chance));
        self.return_now(now);
        true
    }

    pub(super) fn return_at(&self) -> Instant {
        self.back
    }

    /// The service answers again: the key is read, then used.
    pub(super) fn return_now(&mut self, now: Instant) {
        self.read = now;
        self.round_trip = now + self.pause();
    }

    /// The same, when its health is good again. That is so for all nodes at the same moment.
    pub(super) fn return_spread(&mut self, now: Instant, chance: f64) {
        self.return_now(self.spread_return(now, chance));
    }

    /// When a service is used again whose health is good again.
    pub(super) fn spread_return(&self, now: Instant, chance: f64) -> Instant {
        let away = self.away_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        now + (away.saturating_sub(SHORT_OUTAGE) / 10).min(RETURN_SPREAD).mul_f64(chance)
    }

    /// When a refusal is looked at again.
    pub(super) fn retry_at(&mut self, now: Instant, chance: f64) -> Instant {
        let at = now + spread(doubled(REFUSAL_DELAYS, self.refusals), chance);
        self.refusals = self.refusals.saturating_add(1);
        at
    }

    /// When a look follows that failed because of one version of the key: soon at first, since a replica may be behind.
    pub(super) fn catch_up_at(&mut self, now: Instant, chance: f64) -> Instant {
        self.catch_ups = self.catch_ups.saturating_add(1);
        match self.catch_ups {
            1 => now,
            2..=12 => now + spread(REFUSAL_DELAYS.0, chance),
            _ => now + spread(REFUSAL_DELAYS.1, chance),
        }
    }

    /// When a usual look follows a confirmation that found no refusal: at once for the first time.
    pub(super) fn prove_at(&mut self, now: Instant, chance: f64) -> Instant {
        self.proofs = self.proofs.saturating_add(1);
        match self.proofs {
            1 => now,
            more => now + spread(doubled(REFUSAL_DELAYS, more - 2), chance),
        }
    }
}
