//! What follows when the server refuses a token: is it dead, or does its policy not allow the call?

use super::Step;
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::vault::session::state::{Answer, EARLY, Effect, Refusal, Report};
use crate::vault::token::Token;

impl Step {
    pub(super) fn refused(&mut self, refusal: Refusal) {
        let Some(token) = self.state.token.clone().filter(|token| token.generation <= refusal.generation)
        else {
            return self.answer_newer(refusal.waiter, 0);
        };
        // A check that ended after this refusal has already shown that the token is valid.
        let last = self.state.checks.last;
        let checked = last.is_some_and(|(of, ended)| of == token.generation && ended >= refusal.at);
        if !refusal.dead && (checked || self.state.is_denied_fresh(&token, self.now)) {
            return self.answer(refusal.waiter, Answer::NoBetterToken);
        }
        if refusal.dead {
            // In the server's own words: no lookup is needed, and the policy is not the reason.
            self.discard(&token);
            return self.answer_newer(refusal.waiter, 0);
        }
        if self.state.checks.running.is_none() {
            self.state.checks.running = Some((token.generation, refusal.path.clone()));
            self.effects.push(Effect::Lookup(token));
        }
        self.state.checks.waiters.push(refusal);
    }

    pub(super) fn looked_up(&mut self, generation: u64, valid: Result<bool, KeyServiceError>) {
        let path = self.state.checks.running.take().map(|(_, path)| path).unwrap_or_default();
        let waiters = std::mem::take(&mut self.state.checks.waiters);
        let mut answer = None;
        if let Some(token) = self.state.token.clone().filter(|token| token.generation == generation) {
            answer = match valid {
                Ok(true) => {
                    self.state.checks.accepted = self.state.checks.accepted.max(generation);
                    self.state.checks.last = Some((generation, self.now));
                    Some(Answer::NoBetterToken)
                }
                Ok(false) => self.token_dead(&token, path),
                // Too many refusals to look into each one: the server's refusal is the answer.
                Err(error) if error.kind() == ErrorKind::HeldBack => Some(Answer::NoBetterToken),
                Err(error) => Some(Answer::Failed(error)),
            };
        }
        for refusal in waiters {
            match answer.clone().filter(|_| refusal.generation == generation) {
                Some(answer) => self.answer(refusal.waiter, answer),
                // The token is dead or was replaced meanwhile, or this is about another one.
                None => self.refused(refusal),
            }
        }
    }

    /// The server does not know the token, or its policy denies the lookup. Two tokens of logins in a row that may not
    /// even look themselves up have no usable policy: a new login would get the same, and there is an answer. One alone
    /// may have been revoked before its first use.
    pub(super) fn token_dead(&mut self, token: &Token, path: String) -> Option<Answer> {
        if self.state.logs_in && self.state.checks.accepted < token.generation {
            let before = self.state.checks.denied_fresh.replace((token.generation, path));
            let again = before.as_ref().is_some_and(|(generation, _)| generation + 1 >= token.generation);
            if before.is_none_or(|(generation, _)| generation < token.generation) {
                self.state.checks.denials =
                    if again { self.state.checks.denials.saturating_add(1) } else { 0 };
            }
            if again && self.state.is_denied_fresh(token, self.now) {
                return Some(Answer::NoBetterToken);
            }
        }
        self.discard(token);
        None
    }

    pub(super) fn discard(&mut self, token: &Token) {
        self.effects.push(Effect::Report(Report::TokenDead));
        self.state.logins.ended_early = self.now.saturating_duration_since(token.born) < EARLY;
        self.state.token = None;
        self.state.schedule.due = None;
    }
}
