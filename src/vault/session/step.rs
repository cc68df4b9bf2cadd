//! The rules of a session, as one pure function: when to log in, to renew, and to look a token up.
//!
//! Must not do I/O, and must not read a clock or make random numbers: both are arguments.

mod refusals;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::token::{Next, Token};
use super::state::{
    Answer, Effect, Event, FILE_CHECK, Files, RefusedCredentials, Renewal, Report, Stage, State, Waiter,
};
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::retry::doubled;
use crate::secret::Fingerprint;

/// How long refused credentials are not sent again, when nothing changes. Several nodes share a role, and the server
/// locks a role after a few failures.
const REFUSED_PAUSE: Duration = Duration::from_secs(15 * 60);
/// Shortest and longest time from a login that failed in an outage to the next one, however many callers want one. A
/// login may try every address: without a pause, the logins would use up the budget that a look at the service needs.
const OUTAGE_PAUSE: (Duration, Duration) = (Duration::from_millis(1500), Duration::from_secs(5));
/// Shortest and longest time between two logins, while tokens end early.
const LOGIN_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// Shortest and longest time until a failed renewal of a valid token is retried.
const RENEWAL_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The state after `event`, and what the actor does next. `jitter` in `0.0..1.0` is random.
pub(super) fn step(state: State, event: Event, now: Instant, jitter: f64) -> (State, Vec<Effect>) {
    let mut step = Step { state, now, jitter, effects: Vec::new() };
    step.handle(event);
    step.act_when_due();
    (step.state, step.effects)
}

/// The delay after `attempts` others: it doubles each time. With jitter it is at most twice the longest.
fn delay(limits: (Duration, Duration), attempts: u32, jitter: f64) -> Duration {
    doubled(limits, attempts).mul_f64(1.0 + jitter)
}

struct Step {
    state: State,
    now: Instant,
    jitter: f64,
    effects: Vec<Effect>,
}

impl Step {
    fn handle(&mut self, event: Event) {
        match event {
            Event::Wanted(waiter) => self.answer_newer(waiter, 0),
            Event::NewerWanted { waiter, generation } => self.answer_newer(waiter, generation),
            Event::Refused(refusal) => self.refused(refusal),
            Event::Accepted { generation, path } => self.accepted(generation, &path),
            Event::Used { generation } => self.used(generation),
            Event::FilesChecked { files, changed } => self.files_checked(files, changed),
            Event::CredentialsRead(credentials) => self.credentials_read(credentials),
            Event::LoginEnded(Ok(token)) => self.logged_in(token),
            Event::LoginEnded(Err(error)) => self.login_refused(error),
            Event::RenewalEnded { generation, renewal } => self.renewed(generation, renewal),
            Event::LookupEnded { generation, valid } => self.looked_up(generation, valid),
            Event::CameBack => self.came_back(),
            Event::Tick => {}
        }
    }

    fn answer(&mut self, waiter: Waiter, answer: Answer) {
        self.effects.push(Effect::Answer(waiter, answer));
    }

    /// Answers with the held token when it is newer than `generation`. Otherwise the caller waits for a login.
    fn answer_newer(&mut self, waiter: Waiter, generation: u64) {
        match self.state.token.clone() {
            Some(token) if token.generation > generation => self.answer(waiter, Answer::Token(token)),
            _ => {
                self.state.logins.waiters.push(waiter);
                self.begin_login();
            }
        }
    }

    /// Begins a login, unless one is under way: then everybody waits for that one.
    fn begin_login(&mut self) {
        let logins = &mut self.state.logins;
        if logins.stage != Stage::Idle {
            return;
        }
        if let Some(at) = logins.not_before.filter(|at| *at > self.now) {
            logins.stage = Stage::Delayed(at);
            return;
        }
        if std::mem::take(&mut logins.ended_early) {
            let delay = delay(LOGIN_BACKOFF, logins.delays, self.jitter);
            logins.delays = logins.delays.saturating_add(1);
            logins.stage = Stage::Delayed(self.now + delay);
        } else {
            logins.delays = 0;
            self.check_files_for_login();
        }
    }

    fn check_files_for_login(&mut self) {
        self.state.logins.stage = Stage::CheckingFiles;
        self.check_files(Files::Credentials);
    }

    fn check_files(&mut self, files: Files) {
        let running = self.checking(files);
        if !std::mem::replace(running, true) {
            self.effects.push(Effect::CheckFiles(files));
        }
    }

    fn checking(&mut self, files: Files) -> &mut bool {
        let (credentials, tls) = &mut self.state.checking;
        match files {
            Files::Credentials => credentials,
            Files::Tls => tls,
        }
    }

    fn files_checked(&mut self, files: Files, changed: bool) {
        *self.checking(files) = false;
        let logins = &mut self.state.logins;
        match logins.stage {
            Stage::CheckingFiles if files == Files::Credentials => {
                logins.stage = Stage::ReadingCredentials;
                self.effects.push(Effect::ReadCredentials);
            }
            Stage::ReadingCredentials | Stage::Sent(_) => logins.again |= changed,
            Stage::Idle if changed => self.begin_login(),
            _ => {}
        }
    }

    fn credentials_read(&mut self, credentials: Result<Fingerprint, KeyServiceError>) {
        let fingerprint = match credentials {
            Ok(fingerprint) => fingerprint,
            Err(error) => return self.login_failed(error),
        };
        let refused = self.state.logins.refused.as_ref();
        match refused.filter(|refused| refused.fingerprint == fingerprint && refused.until > self.now) {
            Some(refused) => self.login_failed(refused.error.clone()),
            None => {
                self.state.logins.stage = Stage::Sent(fingerprint);
                self.effects.push(Effect::LogIn);
            }
        }
    }

    fn logged_in(&mut self, mut token: Token) {
        let state = &mut self.state;
        if let Stage::Sent(fingerprint) = state.logins.stage {
            state.logins.accepted = Some(fingerprint);
        }
        state.logins.count += 1;
        (state.logins.refused, state.logins.not_before, state.logins.outages) = (None, None, 0);
        token.generation = state.logins.count;
        (state.uses, state.failure, state.problem) = (0, None, None);
        self.effects.push(Effect::Report(Report::LoggedIn { ttl: token.lease.ttl }));
        state.token = Some(Arc::new(token));
        self.plan();
        self.end_login();
    }

    fn login_refused(&mut self, error: KeyServiceError) {
        // A login that is denied says nothing of the credentials, and may be tried again sooner.
        let pause = match error.kind() {
            ErrorKind::CredentialsRefused => Some(REFUSED_PAUSE),
            kind if kind.is_refusal() || kind == ErrorKind::LockedOut => error.retry_after(),
            _ => None,
        };
        // The pause is kept here. For others, the service is as it was.
        let error = if pause.is_some() { error.with_retry_after(None) } else { error };
        if let (Some(pause), Stage::Sent(fingerprint)) = (pause, self.state.logins.stage) {
            self.effects.push(Effect::Report(Report::CredentialsRefused(error.clone())));
            let until = self.now + pause.mul_f64(0.9 + self.jitter * 0.2);
            self.state.logins.refused = Some(RefusedCredentials { fingerprint, until, error: error.clone() });
        }
        self.login_failed(error);
    }

    fn login_failed(&mut self, error: KeyServiceError) {
        let token_held = self.state.token.is_some();
        let logins = &mut self.state.logins;
        if error.kind().is_outage() && error.kind() != ErrorKind::LockedOut {
            logins.not_before = Some(self.now + delay(OUTAGE_PAUSE, logins.outages, self.jitter));
            logins.outages = logins.outages.saturating_add(1);
        }
        self.state.failure = Some(error.clone());
        self.state.problem = Some(error.to_string());
        self.effects.push(Effect::Report(Report::LoginFailed { error, token_held }));
        if token_held {
            self.plan_retry();
        }
        self.end_login();
    }

    /// The pause between the logins of an outage is over with the outage.
    fn came_back(&mut self) {
        let logins = &mut self.state.logins;
        logins.outages = 0;
        if let (Some(pause), Stage::Delayed(until)) = (logins.not_before.take(), logins.stage)
            && pause == until
        {
            // Without a caller it waits for the next one: the service is back for all nodes at the same moment.
            logins.stage = if logins.waiters.is_empty() { Stage::Idle } else { Stage::Delayed(self.now) };
        }
    }

    /// Answers everybody who waits for a login: with the token, also with the old one when it was not replaced.
    fn end_login(&mut self) {
        self.state.logins.stage = Stage::Idle;
        for waiter in std::mem::take(&mut self.state.logins.waiters) {
            match (self.state.token.clone(), self.state.failure.clone()) {
                (Some(token), _) => self.answer(waiter, Answer::Token(token)),
                (None, Some(error)) => self.answer(waiter, Answer::Failed(error)),
                (None, None) => self.state.logins.waiters.push(waiter),
            }
        }
        if std::mem::take(&mut self.state.logins.again) {
            self.begin_login();
        }
    }

    fn used(&mut self, generation: u64) {
        let Some(token) = self.state.token.clone().filter(|token| token.generation == generation) else {
            return;
        };
        self.state.uses += 1;
        if token.num_uses > 0 && self.state.uses == token.uses_before_login() {
            self.begin_login();
        }
    }

    fn accepted(&mut self, generation: u64, path: &str) {
        let checks = &mut self.state.checks;
        checks.accepted = checks.accepted.max(generation);
        // The path that was refused works now.
        if checks.denied_fresh.as_ref().is_some_and(|(_, refused)| refused == path) {
            (checks.denied_fresh, checks.denials) = (None, 0);
        }
    }

    fn renewed(&mut self, generation: u64, renewal: Renewal) {
        self.state.schedule.renewing = false;
        let Some(token) = self.state.token.clone().filter(|token| token.generation == generation) else {
            return;
        };
        let lease = match renewal {
            Renewal::Granted { at, ttl, renewable } => token.lease.renewed(at, ttl, renewable),
            Renewal::Refused { at } => token.lease.unrenewable(at),
            Renewal::Dead => {
                self.discard(&token);
                return self.begin_login();
            }
            Renewal::Failed(error) => {
                self.state.problem = Some(error.to_string());
                return self.plan_retry();
            }
        };
        self.state.set_lease(lease);
        // A login that failed before is still a problem.
        if self.state.failure.is_none() {
            self.state.problem = None;
        }
        self.plan();
    }

    /// Plans the next renewal or login of the held token.
    fn plan(&mut self) {
        let next = self.state.token.as_ref().map(|token| token.lease.next(self.jitter));
        self.state.schedule.failures = 0;
        self.state.schedule.due = match next {
            None | Some(Next::Keep) => None,
            Some(Next::Renew(at) | Next::Login(at)) => Some(at),
        };
    }

    /// Plans the next attempt after a failed one, in time before the token ends.
    fn plan_retry(&mut self) {
        let delay = delay(RENEWAL_BACKOFF, self.state.schedule.failures, self.jitter);
        let end = self.state.token.as_ref().and_then(|token| token.lease.end());
        let latest = end.map(|end| (end.saturating_duration_since(self.now) / 3).max(RENEWAL_BACKOFF.0));
        self.state.schedule.failures = self.state.schedule.failures.saturating_add(1);
        self.state.schedule.due = Some(self.now + latest.map_or(delay, |latest| latest.min(delay)));
    }

    fn act_when_due(&mut self) {
        let now = self.now;
        if matches!(self.state.logins.stage, Stage::Delayed(until) if until <= now) {
            self.check_files_for_login();
        }
        if self.state.next_file_check <= now {
            self.state.next_file_check = now + FILE_CHECK;
            self.check_files(Files::Credentials);
            self.check_files(Files::Tls);
        }
        let idle = self.state.logins.stage == Stage::Idle && !self.state.schedule.renewing;
        let Some(token) = self.state.token.clone().filter(|_| idle) else { return };
        if self.state.schedule.due.is_none_or(|due| due > now) {
            return;
        }
        if matches!(token.lease.next(0.0), Next::Renew(_)) && !token.lease.nearly_over(now) {
            self.state.schedule.renewing = true;
            self.effects.push(Effect::Renew(token));
        } else if self.state.logs_in {
            self.begin_login();
        } else {
            self.state.schedule.due = None;
            self.state.problem = Some("the token cannot be renewed and will expire".to_owned());
            self.effects.push(Effect::Report(Report::CannotRenew));
        }
    }
}
