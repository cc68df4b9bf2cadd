//! A machine with its clock, and what the service answers, for the tests of the judge.

use std::time::Duration;

use super::super::super::plan::Pace;
use super::super::*;

pub(super) const CHANCE: f64 = 0.5;
pub(super) const READ: Duration = Duration::from_secs(60);
pub(super) const ROUND_TRIP: Duration = Duration::from_secs(60);

pub(super) fn error(kind: ErrorKind) -> KeyServiceError {
    KeyServiceError::new(kind, "it failed", "repair it")
}

/// A machine, its clock, and what the service answers.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) machine: Machine,
    pub(super) now: Instant,
    pub(super) looks: Vec<Look>,
}

impl Run {
    pub(super) fn start(role: Role) -> Self {
        let now = Instant::now();
        let plan = Plan::new(Pace { read: READ, round_trip: ROUND_TRIP }, now);
        Self { machine: Machine::new(role, plan, false, false), now, looks: Vec::new() }
    }

    pub(super) fn denying_when_sealed() -> Self {
        let mut run = Self::well(Role::Primary);
        run.machine.sealed_is_denied = true;
        run
    }

    /// A service that works, its looks just done.
    pub(super) fn well(role: Role) -> Self {
        let mut run = Self::start(role);
        run.until_good();
        run
    }

    /// Waits for the next look, and answers it.
    pub(super) fn step(&mut self, answer: impl FnOnce(Look) -> Result<Seen, KeyServiceError>) -> Look {
        let (look, due) = self.machine.next();
        self.now = self.now.max(due);
        self.looks.push(look);
        let result = answer(look);
        if look == Look::Read && result.is_ok() {
            self.machine.set_has_version(true);
        }
        self.machine.looked(look, result, (self.now, self.now), CHANCE);
        look
    }

    pub(super) fn good(&mut self) -> Look {
        self.step(|_| Ok(Seen::Good))
    }

    pub(super) fn fail(&mut self, kind: ErrorKind) -> Look {
        self.step(|_| Err(error(kind)))
    }

    /// Everything works, until the verdict is good; how long that took.
    pub(super) fn until_good(&mut self) -> Duration {
        let started = self.now;
        for _ in 0..10 {
            if matches!(self.machine.verdict(), Verdict::Good) {
                break;
            }
            self.good();
        }
        assert!(matches!(self.machine.verdict(), Verdict::Good), "{:?}", self.machine);
        self.now - started
    }

    /// Every look is refused, until that is believed; how long that took.
    pub(super) fn until_refused(&mut self, kind: ErrorKind) -> Duration {
        let started = self.now;
        for _ in 0..10 {
            if matches!(self.machine.verdict(), Verdict::Refused(_)) {
                break;
            }
            self.step(|look| if look == Look::Health { Ok(Seen::Good) } else { Err(error(kind)) });
        }
        assert!(matches!(self.machine.verdict(), Verdict::Refused(_)), "{:?}", self.machine);
        self.now - started
    }

    pub(super) fn hint(&mut self, hint: Hint) {
        self.machine.hint(hint, self.now);
    }

    /// The time until the next look.
    pub(super) fn pause(&self) -> Duration {
        self.machine.next().1.saturating_duration_since(self.now)
    }
}
