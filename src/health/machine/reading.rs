//! What follows from a read of the key's versions, and from one that failed.

use tokio::time::Instant;

use super::confirmation::explained;
use super::{Machine, State, Step};
use crate::health::plan::Look;
use crate::health::verdict::{Role, Seen, Verdict};
use crate::key_service::{ErrorKind, KeyServiceError};

impl Machine {
    pub(super) fn was_read(&mut self, seen: Seen, now: Instant, chance: f64) {
        self.read_error = None;
        if seen == Seen::MayLag {
            self.plan.read_again_soon(now, chance);
        }
        if self.role == Role::DecryptOnly {
            return self.works(now);
        }
        if self.verdict().error().is_some_and(|error| error.kind().is_missing_key()) {
            // The key is there again; whether it is the same one is not judged here.
            if let State::Refused { next, .. } = &mut self.state {
                // Whether we may use it shows a round trip.
                (*next, self.restored) = (now, true);
                return;
            }
            self.works(now);
            return self.plan.set_due(Look::RoundTrip, now);
        }
        match &mut self.state {
            state @ State::Well { .. } => *state = State::Well { unreadable: None, unread: false },
            State::Starting | State::Away { .. } => self.plan.set_due(Look::RoundTrip, now),
            State::Suspected { error, step: step @ Step::Explain, next } => {
                (*step, *next) = explained(error.kind(), &mut self.plan, now, chance);
            }
            State::Suspected { step: Step::Prove, next, .. } | State::Refused { next, .. } => *next = now,
            State::Suspected { error, step: Step::Sealed { .. }, .. } => {
                self.state = State::Away { error: error.clone(), returning: true };
                self.plan.set_due(Look::RoundTrip, now);
            }
            // A read that a call asked for: the confirmation goes on.
            State::Suspected { .. } => {}
        }
    }

    pub(super) fn read_failed(&mut self, error: KeyServiceError, now: Instant, chance: f64) {
        self.read_error = Some(error.clone());
        // The policy may allow to use the key, and not to read it. Only a round trip shows that.
        let may_work = error.kind() == ErrorKind::Denied && self.role == Role::Primary && self.has_version;
        if error.kind().needs_no_confirmation() {
            return self.believe(error, now, chance);
        }
        match &mut self.state {
            State::Suspected { error: first, step: step @ (Step::Explain | Step::Confirm(_)), next } => {
                if may_work {
                    self.plan.retry_read(now, chance);
                }
                // "Not found" explains a refusal better than the refusal itself.
                if error.kind().is_missing_key() {
                    *first = error;
                }
                if matches!(step, Step::Explain) {
                    (*step, *next) = explained(first.kind(), &mut self.plan, now, chance);
                }
            }
            // It has just worked.
            State::Well { unreadable, unread: unread @ true } if may_work => {
                (*unreadable, *unread) = (Some(error), false);
                self.plan.retry_read(now, chance);
            }
            State::Starting | State::Well { .. } | State::Away { .. } if may_work => {
                self.plan.retry_read(now, chance);
                if !matches!(self.verdict(), Verdict::Unreadable(_)) {
                    self.plan.set_due(Look::RoundTrip, now);
                }
            }
            // The next usual look is not later for it: a policy may allow to use the key, and not to read it.
            State::Refused { next, .. } if *next > now => {
                let due = *next;
                self.plan.read_refused(now, chance);
                self.refused(error, now, chance);
                if let State::Refused { next, .. } = &mut self.state {
                    *next = due;
                }
            }
            _ => self.refused(error, now, chance),
        }
    }
}
