//! The agent's token: callers get it here, report refusals, and wait for a new one.
//!
//! Must not know Transit. One actor keeps the token: `step` has its rules, `state` what it knows, `actor` does the I/O,
//! `requests` sends. Callers send it commands and read the state that it publishes.

mod actor;
mod adoption;
mod files;
mod requests;
mod since;
mod state;
mod step;
#[cfg(test)]
mod step_case;
#[cfg(test)]
mod step_refusal_tests;
#[cfg(test)]
mod step_tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::Instant;

use self::actor::{Command, Parts};
use self::requests::{LOOKUP, Requests};
use self::state::{Answer, Status};
use super::classification;
use super::client::Client;
use super::login::LoginMethod;
use super::token::{Lookup, Token};
use crate::clock::{Deadline, Purpose, unix_seconds};
use crate::key_service::{ErrorKind, KeyServiceError, TokenState};

/// A token younger than this is assumed to have the current policies of its role: a new login does not help against a
/// refusal.
const FRESH: Duration = Duration::from_secs(300);
/// Most commands that wait for the actor. It does no I/O itself, so they wait for microseconds.
const MAX_COMMANDS: usize = 1024;

/// The token of one cluster, shared by all key services that log in there in the same way.
pub(super) struct Session {
    requests: Requests,
    /// What identifies the login, except the secret (`Vault::login_scope`). It is a part of the hash in the state.
    scope: String,
    handle: Handle,
    /// Taken by the actor while it runs.
    inbox: Mutex<mpsc::Receiver<Command>>,
    /// Whether the last look at the health of the key service failed.
    unwell: AtomicBool,
}

/// The way to the actor.
struct Handle {
    commands: mpsc::Sender<Command>,
    status: watch::Sender<Status>,
}

impl Handle {
    fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, inbox) = mpsc::channel(MAX_COMMANDS);
        (Self { commands, status: watch::Sender::default() }, inbox)
    }

    /// The held token.
    fn current(&self) -> Option<Arc<Token>> {
        self.status.borrow().token.clone()
    }

    /// Sends a command and waits for its answer; `None` when there is none before the deadline.
    async fn ask(
        &self,
        deadline: Deadline,
        command: impl FnOnce(oneshot::Sender<Answer>) -> Command,
    ) -> Option<Answer> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.commands.send(command(reply)).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout_at(deadline.instant(), asked).await.ok().flatten()
    }

    /// Counts a use of a token, where its uses are limited. A count that gets lost replaces the token a little later.
    fn count_use(&self, token: &Token) {
        if token.num_uses > 0 {
            let _full = self.commands.try_send(Command::Used { generation: token.generation });
        }
    }

    /// Tells the actor that a call to `path` succeeded with this token, if that is news.
    fn record_success(&self, token: &Token, path: &str) {
        let status = self.status.borrow();
        let was_refused = status.denied_fresh.as_ref().is_some_and(|(_, refused)| refused == path);
        if status.accepted < token.generation || was_refused {
            drop(status);
            let (generation, path) = (token.generation, path.to_owned());
            // The next success says the same.
            let _full = self.commands.try_send(Command::Accepted { generation, path });
        }
    }
}

impl Session {
    pub(super) fn new(
        client: Arc<Client>,
        method: Box<dyn LoginMethod>,
        namespace: String,
        scope: String,
    ) -> Self {
        let (handle, inbox) = Handle::new();
        let requests = Requests::new(client, method, namespace);
        Self { requests, scope, handle, inbox: Mutex::new(inbox), unwell: AtomicBool::new(false) }
    }

    /// Logs in when a caller waits for a token, renews and logs in ahead of time, and logs in when a credential file
    /// changes. Never returns.
    pub(super) async fn maintain(&self) {
        let mut inbox = self.inbox.lock().await;
        let (client, method) = (&self.requests.client, &self.requests.method);
        let parts = Parts {
            requests: &self.requests,
            status: &self.handle.status,
            changes: &client.changes,
            metrics: &client.metrics,
            method: method.name(),
            has_token: method.has_token(),
            remedy: method.remedy(),
        };
        actor::run(parts, method.logs_in(), &mut inbox).await;
    }

    /// Whether the key service answered for its health: after an outage, a login need not wait any more.
    pub(super) fn health_answered(&self, well: bool) {
        if self.unwell.swap(!well, Ordering::Relaxed) && well {
            // Without a free place in the queue, the login comes after its pause.
            let _full = self.handle.commands.try_send(Command::CameBack);
        }
    }

    /// Whether the login method can get a new token.
    pub(super) fn logs_in(&self) -> bool {
        self.requests.method.logs_in()
    }

    /// The held token.
    pub(super) fn current(&self) -> Option<Arc<Token>> {
        self.handle.current()
    }

    /// The token to use now. Without one, requests a login and waits for it.
    pub(super) async fn token(&self, deadline: Deadline) -> Result<Arc<Token>, KeyServiceError> {
        let token = match self.current() {
            Some(token) => token,
            None => self.answered(self.handle.ask(deadline, Command::Wanted).await)?,
        };
        self.handle.count_use(&token);
        Ok(token)
    }

    /// The token in the answer to a caller who waits for a login.
    fn answered(&self, answer: Option<Answer>) -> Result<Arc<Token>, KeyServiceError> {
        match answer {
            Some(Answer::Token(token)) => Ok(token),
            Some(Answer::Failed(error)) => Err(error),
            Some(Answer::NoBetterToken) | None if self.handle.status.borrow().tokens_end_early => {
                Err(KeyServiceError::new(
                    ErrorKind::Deadline,
                    "the next login waits, since the last tokens ended soon after their login",
                    "look for what revokes them, and check the token_ttl of the role",
                ))
            }
            Some(Answer::NoBetterToken) | None => {
                let states = self.requests.client.states();
                let names: Vec<String> = states.into_iter().map(|state| state.address).collect();
                Err(KeyServiceError::new(
                    ErrorKind::Deadline,
                    format!("the login at {} was not answered in time", names.join(", ")),
                    "check whether the key service hangs, or the network to it is slow",
                ))
            }
        }
    }

    /// Call it when the server refused `path` to `token`. Returns a new token when the server no longer accepts that
    /// one. Returns `None` when the token is valid: then the reason of the refusal is the policy or the key. `dead` is
    /// whether the server said that it does not know the token.
    pub(super) async fn after_refusal(
        &self,
        token: &Token,
        path: &str,
        dead: bool,
        deadline: Deadline,
    ) -> Result<Option<Arc<Token>>, KeyServiceError> {
        if !self.requests.method.has_token() {
            return self.after_refusal_of_the_proxy(token, dead, deadline).await.map(|()| None);
        }
        if !self.handle.status.borrow().maintained {
            // Without an actor, no login can follow: the lookup only shows whether the server answers.
            return self.lookup(token, deadline).await.map(|_| None);
        }
        let (generation, path, at) = (token.generation, path.to_owned(), Instant::now());
        let refused = |reply| Command::Refused { generation, path, dead, at, reply };
        match self.handle.ask(deadline, refused).await {
            Some(Answer::Token(token)) => {
                self.handle.count_use(&token);
                Ok(Some(token))
            }
            Some(Answer::NoBetterToken) => Ok(None),
            Some(Answer::Failed(error)) => Err(error),
            None if self.current().is_none() => self.answered(None).map(Some),
            None => Err(KeyServiceError::deadline("checking a refused token")),
        }
    }

    /// A refusal of the token that a proxy adds, or of a request to which it adds none: a server gives both the same
    /// answer. A lookup of the token tells them apart. A proxy without a valid token has not logged in (again), and
    /// that is an outage of the proxy.
    async fn after_refusal_of_the_proxy(
        &self,
        token: &Token,
        dead: bool,
        deadline: Deadline,
    ) -> Result<(), KeyServiceError> {
        if !dead && self.requests.accepts(token.secret.as_ref(), deadline.of(Purpose::Upkeep)).await? {
            return Ok(());
        }
        let states = self.requests.client.states();
        let names: Vec<String> = states.into_iter().map(|state| state.address).collect();
        Err(classification::proxy_has_no_token(&names.join(", ")))
    }

    /// Records that a call to `path` succeeded with this token.
    pub(super) fn record_success(&self, token: &Token, path: &str) {
        self.handle.record_success(token, path);
    }

    /// A valid token of a recent login: a refusal with it is definite. Since an older login, the role may have been
    /// given other policies.
    pub(super) async fn fresh(&self, deadline: Deadline) -> Result<Arc<Token>, KeyServiceError> {
        let mut token = self.token(deadline).await?;
        if token.born.elapsed() > FRESH && self.logs_in() {
            let generation = token.generation;
            let newer = |reply| Command::NewerWanted { generation, reply };
            token = self.answered(self.handle.ask(deadline, newer).await)?;
        }
        Ok(self.after_refusal(&token, LOOKUP, false, deadline).await?.unwrap_or(token))
    }

    /// Logs in once and holds the token, for a command that has no actor.
    pub(super) async fn log_in_once(&self, deadline: Deadline) -> Result<(), KeyServiceError> {
        let token = self.requests.request_token(deadline).await?;
        self.handle.status.send_modify(|status| status.token = Some(Arc::new(token)));
        Ok(())
    }

    /// Asks for the login without its secret.
    pub(super) async fn ask_for_login(&self, deadline: Deadline) -> Option<Result<(), KeyServiceError>> {
        self.requests.ask_for_login(deadline).await
    }

    /// Calls `lookup-self`. `None` when the policy of the token denies that.
    pub(super) async fn lookup(
        &self,
        token: &Token,
        deadline: Deadline,
    ) -> Result<Option<Lookup>, KeyServiceError> {
        self.requests.lookup(token.secret.as_ref(), deadline.of(Purpose::Upkeep)).await
    }

    /// Revokes the held token, if a login created it. Where the policy denies that, it stays valid until it expires.
    pub(super) async fn revoke(&self, deadline: Deadline) {
        let Some(token) = self.current().filter(|_| self.logs_in()) else { return };
        if let Some(secret) = &token.secret {
            self.requests.revoke(secret, deadline).await;
        }
    }

    /// The state of the token, without the token itself.
    pub(super) fn state(&self) -> TokenState {
        let status = self.handle.status.borrow().clone();
        let needed = self.requests.method.has_token();
        let expires = status.token.as_ref().and_then(|token| token.lease.end()).map(|end| {
            let left = end.saturating_duration_since(Instant::now());
            unix_seconds().saturating_add(i64::try_from(left.as_secs()).unwrap_or(i64::MAX))
        });
        TokenState {
            method: self.requests.method.name(),
            needed,
            held: needed && status.token.is_some(),
            expires,
            renewable: status.token.as_ref().is_some_and(|token| token.lease.renewable),
            logins: if needed { status.logins } else { 0 },
            problem: status.problem,
            refused: status.refused.map(|refused| refused.salted(self.scope.as_bytes())),
            accepted: status.accepted_credentials.map(|accepted| accepted.salted(self.scope.as_bytes())),
        }
    }
}

/// Single steps, for the replay of recorded answers and for fuzzing.
#[cfg(any(test, fuzzing))]
impl Session {
    pub(super) fn hold(&self, token: Token) {
        self.handle.status.send_modify(|status| status.token = Some(Arc::new(token)));
    }

    /// Gets the credentials ready: unwraps a wrapped secret-id.
    #[cfg(test)]
    pub(super) async fn credentials(&self, deadline: Deadline) -> Result<(), KeyServiceError> {
        self.requests.method.credentials(&self.requests.client, deadline).await.map(drop)
    }

    /// Whether a renewal is granted.
    pub(super) async fn renew(&self, token: &Token) -> Result<bool, KeyServiceError> {
        use self::requests::TokenRequests as _;
        match self.requests.renew(token).await {
            state::Renewal::Granted { .. } => Ok(true),
            state::Renewal::Refused { .. } | state::Renewal::Dead => Ok(false),
            state::Renewal::Failed(error) => Err(error),
        }
    }
}
