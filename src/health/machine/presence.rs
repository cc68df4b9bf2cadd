//! Whether the service is there at all: what its health, a lost answer or none says.

use tokio::time::Instant;

use super::{Machine, State, Step};
use crate::health::plan::Look;
use crate::health::timing::SEALED_CONFIRMATION;
use crate::key_service::{ErrorKind, KeyServiceError};

impl Machine {
    /// The agent's own budget is used up, which says nothing of the service. But where something else answered for its
    /// health, nothing shows that it is there.
    pub(super) fn was_held_back(&mut self, look: Look, now: Instant, chance: f64) {
        self.plan.held_back(look, now);
        if let (State::Well { .. }, Some(error)) = (&self.state, self.blocked.take()) {
            self.read_is_old = true;
            self.lost(error, look, now, chance);
        }
    }

    /// `sys/health` answered: it can serve. Whether it serves us is another question.
    pub(super) fn answers(&mut self, now: Instant, chance: f64) {
        self.blocked = None;
        self.plan.unblock_health();
        match &mut self.state {
            // Where it is about to be read, somebody who asks for its health meanwhile does not delay that.
            State::Away { returning: true, .. } => {}
            State::Away { returning, .. } => {
                *returning = true;
                self.plan.return_spread(now, chance);
            }
            State::Suspected { error, step: Step::Sealed { .. }, .. } => {
                self.state = State::Away { error: error.clone(), returning: true };
                self.plan.return_now(now);
            }
            State::Refused { away: away @ true, next, .. } => {
                (*away, *next) = (false, self.plan.spread_return(now, chance));
            }
            _ => {}
        }
    }

    /// Something else than the service answered for its health: a gateway may block that path and pass the others on.
    /// It says nothing; another look does.
    pub(super) fn health_is_blocked(&mut self, error: KeyServiceError, now: Instant, chance: f64) {
        match &mut self.state {
            State::Well { .. } | State::Starting => {
                self.blocked = Some(error);
                self.plan.block_health(now);
                self.plan.hurry(Look::Read, now);
            }
            State::Away { returning, .. } => *returning = self.plan.return_blocked(now, chance),
            State::Refused { away, .. } => *away = false,
            State::Suspected { step: Step::Sealed { by_read, .. }, next, .. } => {
                *by_read = self.plan.return_blocked(now, chance);
                *next = if *by_read { now } else { self.plan.return_at() };
            }
            State::Suspected { .. } => {}
        }
    }

    /// No answer, or one that says that the service cannot serve.
    pub(super) fn lost(&mut self, error: KeyServiceError, look: Look, now: Instant, chance: f64) {
        self.restored = false;
        if error.kind() != ErrorKind::NotVault {
            self.plan.unblock_health();
        }
        self.plan.lost(&error, look, now, chance);
        let next = self.plan.return_at();
        if error.kind() == ErrorKind::Sealed && self.sealed_is_denied {
            let since = match &self.state {
                State::Suspected { step: Step::Sealed { since, .. }, .. } => *since,
                State::Refused { .. } => now - SEALED_CONFIRMATION,
                _ => now,
            };
            self.state = if now.saturating_duration_since(since) >= SEALED_CONFIRMATION {
                State::Refused { error, away: true, next }
            } else {
                State::Suspected { error, step: Step::Sealed { since, by_read: false }, next }
            };
            return;
        }
        match &mut self.state {
            // A refusal is not ridden out: whoever refuses us may also block the way.
            State::Refused { away, next: due, .. } => (*away, *due) = (true, next),
            state => *state = State::Away { error, returning: false },
        }
    }
}
