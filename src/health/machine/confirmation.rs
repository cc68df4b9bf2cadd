//! How a refusal is confirmed: by every address that answers, twice, and when it is believed.

use tokio::time::Instant;

use super::{Machine, State, Step};
use crate::health::plan::Plan;
use crate::health::timing::CONFIRMATION_PAUSE;
use crate::health::verdict::Role;
use crate::key_service::{ErrorKind, KeyServiceError};

/// Confirmations of a refusal that are needed before it is believed.
const CONFIRMATIONS: u8 = 2;

impl Machine {
    /// A read or a round trip was refused, or the key cannot do its work.
    pub(super) fn refused(&mut self, error: KeyServiceError, now: Instant, chance: f64) {
        if error.kind().needs_no_confirmation() || matches!(self.state, State::Refused { .. }) {
            return self.believe(error, now, chance);
        }
        let (step, next) = match (self.role, &self.state) {
            // An address allows it, and the usual one does not: not in a loop.
            (_, State::Suspected { step: Step::Prove, .. }) if error.kind().is_refusal() => {
                (Step::Confirm(0), self.plan.retry_at(now, chance))
            }
            // The first of the two refusals was the read itself.
            (Role::DecryptOnly, _) => (Step::Confirm(1), now + CONFIRMATION_PAUSE),
            (Role::Primary, _) if self.read_error.is_some() && error.kind().is_refusal() => {
                (Step::Confirm(0), now)
            }
            (Role::Primary, _) => (Step::Explain, now),
        };
        self.state = State::Suspected { error, step, next };
    }

    /// Every address that answers refused again.
    pub(super) fn confirmed(&mut self, error: KeyServiceError, now: Instant, chance: f64) {
        let State::Suspected { error: first, step: Step::Confirm(count), next } = &mut self.state else {
            return;
        };
        *count += 1;
        *next = now + CONFIRMATION_PAUSE;
        if *count >= CONFIRMATIONS {
            let error = if first.kind().is_missing_key() { first.clone() } else { error };
            self.believe(error, now, chance);
        }
    }

    pub(super) fn believe(&mut self, error: KeyServiceError, now: Instant, chance: f64) {
        // Before the next wrap, the key is read again: it may be missing by then.
        self.restored = false;
        let error = match &self.state {
            // The same reason in the words in which it was told first. Another fault does not end a refusal, either.
            State::Refused { error: first, .. }
                if first.kind() == error.kind()
                    || (first.kind().is_refusal() && !error.kind().is_refusal()) =>
            {
                first.clone()
            }
            _ => error,
        };
        let next = self.plan.retry_at(now, chance);
        self.state = State::Refused { error, away: false, next };
    }

    /// An address allowed what was refused. That ends the suspicion once a usual look works, too.
    pub(super) fn is_allowed(&mut self, wrap: bool, now: Instant, chance: f64) {
        if let State::Suspected { step, next, .. } = &mut self.state {
            // The confirmation has read the key, or used it: then the right to read it alone may still be missing.
            self.read_error =
                self.read_error.take().filter(|error| wrap && error.kind() == ErrorKind::Denied);
            (*step, *next) = (Step::Prove, self.plan.prove_at(now, chance));
        }
    }
}

/// What follows when the key was read after a failed look: a refusal is confirmed. An error about one version of the key
/// is over when a replica has caught up, or when the next look uses the version that was just read.
pub(super) fn explained(kind: ErrorKind, plan: &mut Plan, now: Instant, chance: f64) -> (Step, Instant) {
    match kind.is_refusal() {
        true => (Step::Confirm(0), now),
        false => (Step::Prove, plan.catch_up_at(now, chance)),
    }
}
