//! The judge: the state of one key service, as a pure machine. What was seen, and when, decides what the agent says of
//! the service and when it looks at it next. The machine of the primary and that of a service that only unwraps are
//! the same one in two roles.
//!
//! Must not know clocks, tasks, I/O or random numbers: times and chances are arguments. [`super::plan`] has the times.
//!
//! ```text
//! Starting ──it works──▶ Well ──no answer──▶ Away ──it works──▶ Well
//!                          │ refused           ▲ no answer
//!                          ▼                   │
//!                      Suspected ──────────────┘      Suspected ──it works──▶ Well
//!                          │ refused again by every address, twice
//!                          ▼
//!                       Refused ──it works──▶ Well    (an outage does not end a refusal)
//! ```

mod confirmation;
mod presence;
mod reading;

use tokio::time::Instant;

use super::plan::{Look, Plan};
use super::timing::FRESH;
use super::verdict::{Hint, Role, Seen, Verdict};
use crate::key_service::{ErrorKind, KeyServiceError};

/// How a refusal is confirmed.
#[derive(Clone, Debug)]
enum Step {
    /// Read the key first: where the policy allows only wrapping, a missing key and a missing right give one error.
    Explain,
    /// Ask every address. So many have been confirmed.
    Confirm(u8),
    /// An address allowed it: a look of the usual kind shows whether the fault is over.
    Prove,
    /// It is sealed since then, and `health.sealed = "denied"` makes that a refusal. Whether it is still sealed shows its
    /// health or, where something else answers for that, a read.
    Sealed { since: Instant, by_read: bool },
}

#[derive(Clone, Debug)]
enum State {
    Starting,
    /// `unread`: it works again, and the key has not been read since. What the last read said may be over.
    Well {
        unreadable: Option<KeyServiceError>,
        unread: bool,
    },
    Away {
        error: KeyServiceError,
        returning: bool,
    },
    Suspected {
        error: KeyServiceError,
        step: Step,
        next: Instant,
    },
    Refused {
        error: KeyServiceError,
        away: bool,
        next: Instant,
    },
}

/// The state of one key service.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    role: Role,
    sealed_is_denied: bool,
    state: State,
    plan: Plan,
    /// Whether a version of the key is known that a look can wrap with.
    has_version: bool,
    /// Why the key could not be read.
    read_error: Option<KeyServiceError>,
    /// Whether the last read was before the end of a fault: it says nothing of what is allowed after that.
    read_is_old: bool,
    /// What something else than the service answered for its health, when nothing else was seen since.
    blocked: Option<KeyServiceError>,
    /// Whether a missing key was read again since that was told.
    restored: bool,
}

impl Machine {
    pub(super) fn new(role: Role, plan: Plan, has_version: bool, sealed_is_denied: bool) -> Self {
        Self {
            role,
            sealed_is_denied,
            state: State::Starting,
            plan,
            has_version,
            read_error: None,
            read_is_old: false,
            blocked: None,
            restored: false,
        }
    }

    /// The next look, and when it is due. A time that has passed means now.
    pub(super) fn next(&self) -> (Look, Instant) {
        let (look, at) = match &self.state {
            State::Starting | State::Well { .. } | State::Away { returning: true, .. } => {
                self.plan.first_due(self.role == Role::Primary)
            }
            State::Away { returning: false, .. } => (Look::Health, self.plan.return_at()),
            State::Suspected { step, next, .. } => (self.look_of(step), *next),
            State::Refused { away: true, next, .. } => (Look::Health, *next),
            State::Refused { next, .. } => self.while_refused(*next),
        };
        (look, self.plan.not_before(look, at))
    }

    /// The next look at a service that refuses: whether it does so still, at `next`. Meanwhile its health shows whether it
    /// is there, and a read whether the key was replaced or rolled back.
    fn while_refused(&self, next: Instant) -> (Look, Instant) {
        let meanwhile = [(Look::Health, self.plan.health_at()), (Look::Read, self.plan.read_at())];
        let usual = (self.usual_look(), next);
        meanwhile.into_iter().fold(usual, |first, look| if look.1 < first.1 { look } else { first })
    }

    /// The look that shows whether the service does its work.
    fn usual_look(&self) -> Look {
        let may_wrap = self.role == Role::Primary && self.has_version && !self.key_is_missing();
        if may_wrap { Look::RoundTrip } else { Look::Read }
    }

    fn look_of(&self, step: &Step) -> Look {
        match step {
            Step::Explain => Look::Read,
            Step::Confirm(_) => {
                // Where a read did not get to the key, it may be missing, and a wrap could create one.
                let hidden = self.read_error.as_ref().is_some_and(|error| error.kind().hides_key());
                Look::Confirm { wrap: !hidden && self.usual_look() == Look::RoundTrip }
            }
            Step::Prove => self.usual_look(),
            Step::Sealed { by_read: false, .. } => Look::Health,
            Step::Sealed { by_read: true, .. } => Look::Read,
        }
    }

    /// Whether the last read found no key, or another look did. Then nothing is wrapped: a wrap could create one.
    fn key_is_missing(&self) -> bool {
        let told = match &self.state {
            State::Suspected { error, .. } | State::Refused { error, .. } if !self.restored => Some(error),
            _ => None,
        };
        let missing = |error: &KeyServiceError| error.kind().is_missing_key();
        self.read_error.iter().chain(told).any(missing)
    }

    pub(super) fn verdict(&self) -> Verdict {
        match &self.state {
            State::Starting => Verdict::Unknown,
            State::Well { unreadable: None, .. } => Verdict::Good,
            State::Well { unreadable: Some(error), .. } => Verdict::Unreadable(error.clone()),
            State::Away { error, .. } => Verdict::Away(error.clone()),
            State::Suspected { error, .. } => Verdict::Suspected(error.clone()),
            State::Refused { error, .. } => Verdict::Refused(error.clone()),
        }
    }

    /// Whether what is known is too old for somebody who asks for the health of the service now.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.plan.last_answer().is_none_or(|last| now.saturating_duration_since(last) >= FRESH)
            && !self.plan.health_is_blocked(now)
    }

    /// Whether only a round trip shows what somebody wants to know who had the key read: it was missing and has just been
    /// read again, or the policy may allow to use it and not to read it.
    pub(super) fn wants_proof(&self) -> bool {
        let unreadable = self.read_error.as_ref().is_some_and(|error| error.kind() == ErrorKind::Denied);
        let refused = matches!(self.state, State::Refused { away: false, .. });
        self.restored || (refused && unreadable && self.usual_look() == Look::RoundTrip)
    }

    /// Whether it works again, and the key has not been read since.
    pub(super) fn is_unread(&self) -> bool {
        matches!(self.state, State::Well { unread: true, .. })
    }

    /// Whether a version of the key is known that may be wrapped with.
    pub(super) fn set_has_version(&mut self, has_version: bool) {
        self.has_version = has_version;
    }

    /// A call of the API server ended in a way that may not fit the state.
    pub(super) fn hint(&mut self, hint: Hint, now: Instant) {
        if hint == Hint::Worked {
            self.plan.end_pause();
        }
        let look = self.usual_look();
        match (&mut self.state, hint) {
            (State::Well { .. }, Hint::Worked) | (State::Starting, _) => {}
            (State::Well { .. }, Hint::NoAnswer) => {
                // Its health shows at once whether it is there; the usual look, whether it does its work.
                self.plan.hurry(Look::Health, now);
                self.plan.hurry(look, now);
            }
            (State::Well { .. }, Hint::Refused) => self.plan.hurry(look, now),
            (State::Away { returning, .. }, Hint::Worked) => {
                *returning = true;
                self.plan.hurry(Look::Read, now);
            }
            (State::Away { .. }, _) => {}
            (State::Suspected { step: Step::Prove, next, .. } | State::Refused { next, .. }, _) => {
                *next = (*next).min(self.plan.hurried(now));
            }
            (State::Suspected { .. }, _) => {}
        }
    }

    /// A look has ended, with when it began and when it ended. `chance` is a random number in `0.0..1.0`, for the jitter
    /// of what is planned.
    pub(super) fn looked(
        &mut self,
        look: Look,
        result: Result<Seen, KeyServiceError>,
        (began, now): (Instant, Instant),
        chance: f64,
    ) {
        if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::HeldBack) {
            return self.was_held_back(look, now, chance);
        }
        self.plan.looked(look, began, now, chance);
        if look != Look::Health {
            self.blocked = None;
        }
        let failed = result.is_err();
        let answered = !result.as_ref().is_err_and(KeyServiceError::is_outage);
        match (look, result) {
            (Look::Health, Ok(_)) => self.answers(now, chance),
            (Look::Health, Err(error)) if error.kind() == ErrorKind::NotVault => {
                self.health_is_blocked(error, now, chance);
            }
            (Look::Read, Ok(seen)) => self.was_read(seen, now, chance),
            (Look::RoundTrip, Ok(_)) => self.works(now),
            (Look::Confirm { wrap }, Ok(_)) => self.is_allowed(wrap, now, chance),
            (_, Err(error)) if error.is_outage() => self.lost(error, look, now, chance),
            (Look::Health, Err(error)) => self.lost(error, look, now, chance),
            (Look::Read, Err(error)) => self.read_failed(error, now, chance),
            (Look::RoundTrip, Err(error)) => {
                if error.kind() == ErrorKind::VersionAhead && matches!(self.state, State::Refused { .. }) {
                    // It is allowed again, and is another key by now.
                    self.plan.hurry(Look::Read, now);
                }
                self.refused(error, now, chance);
            }
            (Look::Confirm { .. }, Err(error)) => self.confirmed(error, now, chance),
        }
        self.read_is_old = match (look, &self.state) {
            // By the time when a refusal ends, it may be allowed again.
            (Look::Read, State::Suspected { error, .. } | State::Refused { error, .. }) if answered => {
                error.kind().is_refusal()
            }
            (Look::Read, _) if answered => false,
            (_, State::Well { .. }) => self.read_is_old,
            _ => self.read_is_old || failed,
        };
    }

    fn works(&mut self, now: Instant) {
        self.restored = false;
        self.plan.works();
        // What failed before the fault ended may be over: nothing is said of it until it was tried. Only a policy allows
        // the use of a key and not to read it.
        let is_denied = |error: &KeyServiceError| error.kind() == ErrorKind::Denied;
        let unread = self.read_error.as_ref().is_some_and(|error| self.read_is_old || !is_denied(error));
        if unread {
            self.plan.set_due(Look::Read, now);
        }
        self.read_error = self.read_error.take().filter(is_denied);
        self.state = State::Well { unreadable: self.read_error.clone().filter(|_| !unread), unread };
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
