//! A session and its clock, for tests of the step. Nothing waits: times are arguments.

use std::time::Duration;

use tokio::time::Instant;

use super::state::{Answer, Effect, Event, Files, Refusal, Report, Stage, State, Waiter};
use super::step::step;
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::secret::Secret;
use crate::vault::token::{Lease, Token};

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// A session and its clock.
pub(super) struct Case {
    pub(super) state: Option<State>,
    pub(super) now: Instant,
    pub(super) jitter: f64,
    pub(super) waiters: u64,
}

impl Case {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { state: Some(State::new(true, now)), now, jitter: 0.0, waiters: 0 }
    }

    /// A session that holds a token of this lifetime.
    pub(super) fn with_token(ttl: Duration) -> Self {
        let mut case = Self::new();
        case.log_in(ttl);
        case
    }

    pub(super) fn state(&self) -> &State {
        self.state.as_ref().unwrap()
    }

    pub(super) fn generation(&self) -> u64 {
        self.state().token.as_ref().map_or(0, |token| token.generation)
    }

    pub(super) fn send(&mut self, event: Event) -> Vec<Effect> {
        let (state, effects) = step(self.state.take().unwrap(), event, self.now, self.jitter);
        self.state = Some(state);
        effects
    }

    /// The effects after `time`, without those of the regular checks of the files.
    pub(super) fn after(&mut self, time: Duration) -> Vec<Effect> {
        self.now += time;
        let mut effects = self.send(Event::Tick);
        for files in [Files::Credentials, Files::Tls] {
            if effects.iter().any(|effect| matches!(effect, Effect::CheckFiles(of) if *of == files)) {
                effects.extend(self.send(Event::FilesChecked { files, changed: false }));
            }
        }
        effects.retain(|effect| !matches!(effect, Effect::CheckFiles(_)));
        effects
    }

    pub(super) fn waiter(&mut self) -> Waiter {
        self.waiters += 1;
        Waiter(self.waiters)
    }

    pub(super) fn want(&mut self) -> Vec<Effect> {
        let waiter = self.waiter();
        self.send(Event::Wanted(waiter))
    }

    /// A refusal of the held token at this path, now.
    pub(super) fn refuse(&mut self, path: &str) -> Vec<Effect> {
        let (waiter, generation) = (self.waiter(), self.generation());
        self.send(Event::Refused(Refusal {
            waiter,
            generation,
            path: path.into(),
            dead: false,
            at: self.now,
        }))
    }

    pub(super) fn looked_up(&mut self, valid: bool) -> Vec<Effect> {
        let generation = self.generation();
        self.send(Event::LookupEnded { generation, valid: Ok(valid) })
    }

    pub(super) fn token(&self, ttl: Duration) -> Token {
        Token {
            secret: Some(Secret::new("s.token".into())),
            generation: 0,
            born: self.now,
            lease: Lease::new(self.now, (!ttl.is_zero()).then_some(ttl), true),
            num_uses: 0,
        }
    }

    /// Brings a login that has just begun to the request.
    pub(super) fn send_credentials(&mut self, content: &str) -> Vec<Effect> {
        let files = Files::Credentials;
        let effects = self.send(Event::FilesChecked { files, changed: false });
        assert!(matches!(*effects, [Effect::ReadCredentials]), "{effects:?}");
        self.send(Event::CredentialsRead(Ok(Secret::new(content.into()).fingerprint())))
    }

    /// Ends a login that has just begun, with a token of this lifetime.
    pub(super) fn end_login(&mut self, ttl: Duration) -> Vec<Effect> {
        let effects = self.send_credentials("right");
        assert!(matches!(*effects, [Effect::LogIn]), "{effects:?}");
        let token = self.token(ttl);
        self.send(Event::LoginEnded(Ok(token)))
    }

    /// The held token is refused and not known any more: another login follows, after a pause.
    pub(super) fn log_in_after_refusal(&mut self, path: &str) {
        assert!(looks_up(&self.refuse(path)));
        let effects = self.looked_up(false);
        assert!(matches!(*effects, [Effect::Report(Report::TokenDead), ..]), "{effects:?}");
        let Stage::Delayed(until) = self.state().logins.stage else { panic!("delayed") };
        self.now = until;
        assert!(begins_login(&self.send(Event::Tick)));
        self.end_login(SECOND * 3600);
    }

    pub(super) fn log_in(&mut self, ttl: Duration) {
        assert!(begins_login(&self.want()));
        self.end_login(ttl);
    }
}

pub(super) fn error(kind: ErrorKind) -> KeyServiceError {
    KeyServiceError::new(kind, "it failed", "repair it")
}

pub(super) fn begins_login(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::CheckFiles(Files::Credentials)))
}

pub(super) fn renews(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Renew(_)))
}

pub(super) fn looks_up(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Lookup(_)))
}

/// The answers: the generation of the token, 0 for no better token, or the kind of the error.
pub(super) fn answers(effects: &[Effect]) -> Vec<Result<u64, ErrorKind>> {
    let answer = |effect: &Effect| match effect {
        Effect::Answer(_, Answer::Token(token)) => Some(Ok(token.generation)),
        Effect::Answer(_, Answer::NoBetterToken) => Some(Ok(0)),
        Effect::Answer(_, Answer::Failed(error)) => Some(Err(error.kind())),
        _ => None,
    };
    effects.iter().filter_map(answer).collect()
}
