//! The agent's token: callers get it here, report refusals, and wait for a new one.
//!
//! Must not know Transit. Only the renewer logs in, with its own deadline: when a caller is cancelled, its login must
//! go on. Otherwise a wrapped secret-id would be lost, or the login that other callers wait for.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Method;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::client::{CallError, Client};
use super::login::LoginMethod;
use super::token::{Lookup, Token};
use super::transport::Request;
use crate::clock::{Deadline, Purpose, unix_seconds};
use crate::key_service::{ErrorKind, KeyServiceError, TokenState};
use crate::secret::{Fingerprint, Secret};

/// Every token may use this path, unless its policy denies it.
const LOOKUP: &str = "auth/token/lookup-self";
/// A token younger than this is assumed to have the current policies of its role: a new login does not help against a
/// refusal.
const FRESH: Duration = Duration::from_secs(300);
/// A token that becomes invalid sooner than this after its login delays the next login.
const EARLY: Duration = Duration::from_secs(60);

/// The token of one cluster, shared by all key services that log in there in the same way.
pub(super) struct Session {
    pub(super) client: Arc<Client>,
    pub(super) method: Box<dyn LoginMethod>,
    namespace: String,
    pub(super) held: watch::Sender<Held>,
    /// Wakes the renewer: a caller waits for a login.
    pub(super) login_requested: Notify,
    /// A login is requested to replace the held token.
    pub(super) replacement_requested: AtomicBool,
    /// Whether the renewer runs. Without it, a new login never follows.
    pub(super) renewer_runs: AtomicBool,
    /// Whether the last token became invalid soon after its login.
    pub(super) ended_early: AtomicBool,
    /// Uses of the held token.
    uses: AtomicU64,
    /// The generation of the newest token that the server accepted.
    accepted: AtomicU64,
    /// A token of a recent login that the server has never accepted: its generation, and the path that was refused.
    denied_fresh_token: Mutex<Option<(u64, String)>>,
    /// The last check of a refused token, one at a time: the generation, and when the token was found valid.
    last_check: tokio::sync::Mutex<Option<(u64, Instant)>>,
    problem: Mutex<Option<String>>,
    /// What identifies the login, except the secret (`Vault::login_scope`). It is a part of the hash in `refused`.
    scope: String,
    /// A hash of the credentials that were refused.
    refused: Mutex<Option<String>>,
}

/// The held token, and how the last login ended.
#[derive(Default)]
pub(super) struct Held {
    pub(super) token: Option<Arc<Token>>,
    /// Counts the logins that ended, successful or not. A caller that waits sees by it that one has ended.
    pub(super) attempts: u64,
    pub(super) failure: Option<KeyServiceError>,
}

impl Session {
    pub(super) fn new(
        client: Arc<Client>,
        method: Box<dyn LoginMethod>,
        namespace: String,
        scope: String,
    ) -> Self {
        Self {
            client,
            method,
            namespace,
            held: watch::channel(Held::default()).0,
            login_requested: Notify::new(),
            replacement_requested: AtomicBool::new(false),
            renewer_runs: AtomicBool::new(false),
            ended_early: AtomicBool::new(false),
            uses: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            denied_fresh_token: Mutex::default(),
            last_check: tokio::sync::Mutex::default(),
            problem: Mutex::default(),
            scope,
            refused: Mutex::default(),
        }
    }

    /// The held token.
    pub(super) fn current(&self) -> Option<Arc<Token>> {
        self.held.borrow().token.clone()
    }

    /// The token to use now. Without one, requests a login and waits for it.
    pub(super) async fn token(&self, deadline: Deadline) -> Result<Arc<Token>, KeyServiceError> {
        if let Some(token) = self.current() {
            self.count_use(&token);
            return Ok(token);
        }
        self.next_login(deadline, |held| held.token.is_some()).await
    }

    /// Requests a login. Waits until one has ended, or until `enough` is true.
    async fn next_login(
        &self,
        deadline: Deadline,
        enough: impl Fn(&Held) -> bool,
    ) -> Result<Arc<Token>, KeyServiceError> {
        let mut held = self.held.subscribe();
        let before = held.borrow_and_update().attempts;
        self.login_requested.notify_one();
        let ended = held.wait_for(|held| enough(held) || held.attempts > before);
        let Ok(Ok(held)) = tokio::time::timeout_at(deadline.instant(), ended).await else {
            return Err(self.unanswered());
        };
        match (&held.token, &held.failure) {
            (Some(token), _) => Ok(token.clone()),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Err(self.unanswered()),
        }
    }

    fn unanswered(&self) -> KeyServiceError {
        let names: Vec<String> = self.client.states().into_iter().map(|state| state.address).collect();
        KeyServiceError::new(
            ErrorKind::Deadline,
            format!("the login at {} was not answered within the caller's deadline", names.join(", ")),
            "check whether the key service hangs, or the network to it is slow",
        )
    }

    /// Requests a replacement of a token with limited uses when one fifth of the uses is left.
    fn count_use(&self, token: &Token) {
        if token.num_uses > 0 && self.uses.fetch_add(1, Ordering::Relaxed) + 1 == token.uses_before_login() {
            self.replacement_requested.store(true, Ordering::Relaxed);
            self.login_requested.notify_one();
        }
    }

    /// The files whose change causes a login: credentials, and the files of TLS.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files = self.method.files();
        files.extend(self.client.tls_files());
        files.sort_unstable();
        files.dedup();
        files
    }

    pub(super) fn reset_uses(&self) {
        self.uses.store(0, Ordering::Relaxed);
    }

    /// Call it when the server refused `path` to `token`. Returns a new token when the server no longer accepts that
    /// one. Returns `None` when the token is valid: then the reason of the refusal is the policy or the key. `dead` is
    /// whether the server said that it does not know the token: then no lookup is needed.
    pub(super) async fn after_refusal(
        &self,
        token: &Token,
        path: &str,
        dead: bool,
        deadline: Deadline,
    ) -> Result<Option<Arc<Token>>, KeyServiceError> {
        let refused_at = Instant::now();
        let last_check = tokio::time::timeout_at(deadline.instant(), self.last_check.lock()).await;
        let mut last_check = last_check.map_err(|_| KeyServiceError::deadline("checking a refused token"))?;
        match self.current() {
            Some(current) if current.generation > token.generation => return Ok(Some(current)),
            None => {
                drop(last_check);
                return self.token(deadline).await.map(Some);
            }
            Some(_) => {}
        }
        // A check that ended after this refusal has already shown that the token is valid.
        if last_check.is_some_and(|(generation, at)| generation == token.generation && at >= refused_at) {
            return Ok(None);
        }
        if self.is_denied_fresh(token) {
            return Ok(None);
        }
        let found = match dead {
            true => Ok(None),
            false => self.lookup(&token.secret, deadline.of(Purpose::Upkeep)).await,
        };
        let found = match found {
            // Too many refusals to look into each one: the server's refusal is the answer.
            Err(error) if error.kind() == ErrorKind::HeldBack => return Ok(None),
            found => found?,
        };
        if found.is_some() {
            self.accepted.fetch_max(token.generation, Ordering::Relaxed);
            *last_check = Some((token.generation, Instant::now()));
            return Ok(None);
        }
        if !self.renewer_runs.load(Ordering::Relaxed) {
            return Ok(None);
        }
        // A fresh token that may not even look itself up has no usable policy. A new login would get the same.
        if self.method.logs_in() && self.accepted.load(Ordering::Relaxed) < token.generation {
            *self.denied_fresh_token.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((token.generation, path.to_owned()));
            if self.is_denied_fresh(token) {
                return Ok(None);
            }
        }
        tracing::warn!(KMS_REASON = "token_dead", "the token is no longer valid; logging in again");
        self.discard(token);
        drop(last_check);
        self.token(deadline).await.map(Some)
    }

    /// Whether a new login cannot help against a refusal: the token is of a recent login, it has not expired, and the
    /// server has never accepted it. Once the token is older than [`EARLY`], another login is tried.
    fn is_denied_fresh(&self, token: &Token) -> bool {
        let denied_fresh_token = self.denied_fresh_token.lock().unwrap_or_else(PoisonError::into_inner);
        denied_fresh_token.as_ref().is_some_and(|(generation, _)| *generation == token.generation)
            && token.born.elapsed() < EARLY
            && token.lease.end().is_none_or(|end| end > Instant::now())
    }

    /// Records that a call to `path` succeeded with this token.
    pub(super) fn record_success(&self, token: &Token, path: &str) {
        self.accepted.fetch_max(token.generation, Ordering::Relaxed);
        let mut denied_fresh_token = self.denied_fresh_token.lock().unwrap_or_else(PoisonError::into_inner);
        // The path that was refused works now.
        if denied_fresh_token.as_ref().is_some_and(|(_, refused)| refused == path) {
            *denied_fresh_token = None;
        }
    }

    fn discard(&self, token: &Token) {
        self.ended_early.store(token.born.elapsed() < EARLY, Ordering::Relaxed);
        self.replace(token, None);
    }

    /// Replaces `token`, unless another one is held by now.
    pub(super) fn replace(&self, token: &Token, new: Option<Arc<Token>>) {
        let replaced = self.held.send_if_modified(|held| {
            let same = held.token.as_ref().is_some_and(|held| held.generation == token.generation);
            if same {
                held.token = new;
            }
            same
        });
        if replaced {
            self.client.changes.notify();
        }
    }

    /// Takes over the result of a login.
    pub(super) fn end_login(&self, result: Result<Token, KeyServiceError>) {
        let changed = result.is_ok();
        self.held.send_modify(|held| {
            held.attempts += 1;
            match result {
                Ok(token) => (held.token, held.failure) = (Some(Arc::new(token)), None),
                Err(error) => held.failure = Some(error),
            }
        });
        if changed {
            self.client.changes.notify();
        }
    }

    /// A valid token of a recent login: a refusal with it is definite. Since an older login, the role may have been
    /// given other policies.
    pub(super) async fn fresh(&self, deadline: Deadline) -> Result<Arc<Token>, KeyServiceError> {
        let mut token = self.token(deadline).await?;
        if token.born.elapsed() > FRESH && self.method.logs_in() {
            self.replacement_requested.store(true, Ordering::Relaxed);
            token = self.next_login(deadline, |_| false).await?;
        }
        Ok(self.after_refusal(&token, LOOKUP, false, deadline).await?.unwrap_or(token))
    }

    /// Calls `lookup-self`. `None` when the server does not know the token, or its policy denies the lookup.
    pub(super) async fn lookup(
        &self,
        token: &Secret,
        deadline: Deadline,
    ) -> Result<Option<Lookup>, KeyServiceError> {
        let request = self.request(Method::GET, LOOKUP, Some(token), None);
        loop {
            match self.client.call(&request, deadline).await {
                Ok(answer) => return answer.data().map(Some),
                Err(CallError::Failed(error)) => return Err(error),
                Err(CallError::Refused(refusal)) => {
                    if self.client.is_other_cluster(refusal.address, deadline).await {
                        continue;
                    }
                    let denied = refusal.may_be_the_token().then_some(None);
                    return denied.ok_or_else(|| refusal.of_login("looking up the token", ""));
                }
            }
        }
    }

    pub(super) fn request<'a>(
        &'a self,
        method: Method,
        path: &'a str,
        token: Option<&'a Secret>,
        body: Option<&'a Zeroizing<Vec<u8>>>,
    ) -> Request<'a> {
        Request { method, path, namespace: &self.namespace, token, index: None, body }
    }

    /// Sets the problem with renewal or login that `state` shows.
    pub(super) fn set_problem(&self, problem: Option<String>) {
        self.set(&self.problem, problem);
    }

    /// Sets which credentials were refused, if any.
    pub(super) fn set_refused(&self, fingerprint: Option<Fingerprint>) {
        let salted = fingerprint.map(|fingerprint| fingerprint.salted(self.scope.as_bytes()));
        self.set(&self.refused, salted);
    }

    fn set(&self, field: &Mutex<Option<String>>, value: Option<String>) {
        let old =
            std::mem::replace(&mut *field.lock().unwrap_or_else(PoisonError::into_inner), value.clone());
        if old != value {
            self.client.changes.notify();
        }
    }

    /// The state of the token, without the token itself.
    pub(super) fn state(&self) -> TokenState {
        let token = self.current();
        let expires = token.as_ref().and_then(|token| token.lease.end()).map(|end| {
            let left = end.saturating_duration_since(Instant::now());
            unix_seconds().saturating_add(i64::try_from(left.as_secs()).unwrap_or(i64::MAX))
        });
        TokenState {
            method: self.method.name(),
            held: token.is_some(),
            expires,
            renewable: token.as_ref().is_some_and(|token| token.lease.renewable),
            logins: token.as_ref().map_or(0, |token| token.generation),
            problem: self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            refused: self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
