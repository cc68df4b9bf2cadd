//! The actor of a session: it owns the state, does the I/O that the step asks for, and answers the callers.
//!
//! Must not decide anything: the step does. A caller that is cancelled ends no login: a wrapped secret-id would be
//! lost, or the login that other callers wait for.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::requests::TokenRequests;
use super::state::{Answer, Effect, Event, Files, Refusal, Renewal, Report, State, Status, Waiter};
use super::step::step;
use crate::retry::jitter;
use crate::telemetry::metrics::Metrics;
use crate::vault::changes::Changes;

/// What callers tell the actor.
#[derive(Debug)]
pub(super) enum Command {
    /// See the events with the same names.
    Wanted(oneshot::Sender<Answer>),
    NewerWanted {
        generation: u64,
        reply: oneshot::Sender<Answer>,
    },
    Refused {
        generation: u64,
        path: String,
        dead: bool,
        at: Instant,
        reply: oneshot::Sender<Answer>,
    },
    Accepted {
        generation: u64,
        path: String,
    },
    Used {
        generation: u64,
    },
    CameBack,
}

/// What the actor uses, and where it shows its state.
pub(super) struct Parts<'a> {
    pub requests: &'a dyn TokenRequests,
    pub status: &'a watch::Sender<Status>,
    pub changes: &'a Changes,
    pub metrics: &'a Metrics,
    /// The name and the remedy of the login method, for the log.
    pub method: &'static str,
    /// Whether there are logins: a proxy may log in instead.
    pub has_token: bool,
    pub remedy: String,
}

struct Actor<'a> {
    parts: Parts<'a>,
    /// `None` only while a step runs.
    state: Option<State>,
    callers: HashMap<Waiter, oneshot::Sender<Answer>>,
    next_waiter: u64,
    running: FuturesUnordered<BoxFuture<'a, Event>>,
}

/// Keeps the token until the task is dropped.
pub(super) async fn run(parts: Parts<'_>, logs_in: bool, commands: &mut mpsc::Receiver<Command>) {
    // What the files hold now is what the first login uses.
    tokio::join!(parts.requests.files_changed(Files::Credentials), parts.requests.files_changed(Files::Tls));
    let mut actor = Actor {
        state: Some(State::new(logs_in, Instant::now())),
        parts,
        callers: HashMap::new(),
        next_waiter: 0,
        running: FuturesUnordered::new(),
    };
    actor.publish();
    loop {
        let wake = actor.state.as_ref().map_or_else(Instant::now, State::wake_at);
        let event = tokio::select! {
            biased;
            Some(event) = actor.running.next(), if !actor.running.is_empty() => event,
            Some(command) = commands.recv() => actor.event_of(command),
            () = tokio::time::sleep_until(wake) => Event::Tick,
        };
        actor.apply(event);
    }
}

impl<'a> Actor<'a> {
    fn event_of(&mut self, command: Command) -> Event {
        match command {
            Command::Wanted(reply) => Event::Wanted(self.waiter(reply)),
            Command::NewerWanted { generation, reply } => {
                Event::NewerWanted { waiter: self.waiter(reply), generation }
            }
            Command::Refused { generation, path, dead, at, reply } => {
                Event::Refused(Refusal { waiter: self.waiter(reply), generation, path, dead, at })
            }
            Command::CameBack => Event::CameBack,
            Command::Accepted { generation, path } => Event::Accepted { generation, path },
            Command::Used { generation } => Event::Used { generation },
        }
    }

    fn waiter(&mut self, reply: oneshot::Sender<Answer>) -> Waiter {
        self.next_waiter += 1;
        let waiter = Waiter(self.next_waiter);
        self.callers.insert(waiter, reply);
        waiter
    }

    fn apply(&mut self, event: Event) {
        let Some(mut state) = self.state.take() else { return };
        if matches!(event, Event::Tick) {
            // The time between two checks of the files bounds how many cancelled callers are remembered.
            self.callers.retain(|_, reply| !reply.is_closed());
            state.retain_waiters(|waiter| self.callers.contains_key(&waiter));
        }
        if let Event::RenewalEnded { renewal, .. } = &event {
            self.log_renewal(renewal);
        }
        let (state, effects) = step(state, event, Instant::now(), jitter());
        self.state = Some(state);
        // Published before the callers are answered: they see what they are told.
        self.publish();
        effects.into_iter().for_each(|effect| self.perform(effect));
    }

    fn perform(&mut self, effect: Effect) {
        let requests = self.parts.requests;
        let request: BoxFuture<'a, Event> = match effect {
            Effect::CheckFiles(files) => Box::pin(async move {
                let changed = requests.files_changed(files).await;
                Event::FilesChecked { files, changed }
            }),
            Effect::ReadCredentials => {
                Box::pin(async move { Event::CredentialsRead(requests.fingerprint().await) })
            }
            Effect::LogIn => Box::pin(async move { Event::LoginEnded(requests.log_in().await) }),
            Effect::Renew(token) => Box::pin(async move {
                let renewal = requests.renew(&token).await;
                Event::RenewalEnded { generation: token.generation, renewal }
            }),
            Effect::Lookup(token) => Box::pin(async move {
                let valid = requests.is_valid(&token).await;
                Event::LookupEnded { generation: token.generation, valid }
            }),
            Effect::Answer(waiter, answer) => {
                let _gone = self.callers.remove(&waiter).map(|reply| reply.send(answer));
                return;
            }
            Effect::Report(report) => return self.report(report),
        };
        self.running.push(request);
    }

    /// Publishes the state, and signals a change of what is shown of it.
    fn publish(&self) {
        let Some(status) = self.state.as_ref().map(State::status) else { return };
        let before = self.parts.status.send_replace(status.clone());
        let same_token = match (&before.token, &status.token) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (before, now) => before.is_none() && now.is_none(),
        };
        if !same_token || before.problem != status.problem || before.refused != status.refused {
            self.parts.changes.notify();
        }
    }

    fn log_renewal(&self, renewal: &Renewal) {
        let outcome = match renewal {
            Renewal::Granted { .. } => "ok",
            Renewal::Refused { .. } => {
                tracing::debug!("the server refused to renew the token; a login will replace it");
                "refused"
            }
            Renewal::Dead => "dead",
            Renewal::Failed(error) => {
                tracing::warn!(
                    KMS_REASON = error.kind().name(),
                    KMS_REMEDY = error.remedy(),
                    "the token was not renewed: {error}"
                );
                error.kind().name()
            }
        };
        self.parts.metrics.renewal(outcome);
    }

    fn report(&self, report: Report) {
        match report {
            Report::LoggedIn { .. } if !self.parts.has_token => {
                tracing::debug!("no login: the proxy at the address adds its own token");
            }
            Report::LoggedIn { ttl } => {
                self.parts.metrics.login("ok");
                tracing::info!(method = self.parts.method, ttl = ?ttl, "logged in");
            }
            Report::LoginFailed { error, token_held } => {
                self.parts.metrics.login(error.kind().name());
                if token_held {
                    tracing::warn!(
                        KMS_REASON = error.kind().name(),
                        KMS_REMEDY = error.remedy(),
                        "the token was not replaced: {error}"
                    );
                }
            }
            Report::CredentialsRefused(error) => {
                tracing::error!(KMS_REASON = error.kind().name(), KMS_REMEDY = error.remedy(), "{error}");
            }
            Report::TokenDead => {
                tracing::warn!(KMS_REASON = "token_dead", "the token is no longer valid; logging in again");
            }
            Report::CannotRenew => {
                tracing::warn!(remedy = self.parts.remedy, "the token cannot be renewed and will expire");
            }
        }
    }
}

#[cfg(test)]
#[path = "actor_tests.rs"]
mod tests;
