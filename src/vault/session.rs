//! Our token at the cluster, as callers meet it: they take it, report refusals, and wait for a new one.
//!
//! Must not know Transit. Logins are made by the renewer alone, with a deadline of its own: a caller that
//! goes away in the middle must not lose a wrapped secret-id, or a login for everybody else.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::client::{CallError, Client};
use super::login::LoginMethod;
use super::token::Token;
use super::transport::Request;
use crate::clock::{Deadline, unix_seconds};
use crate::key_service::{ErrorKind, KeyServiceError, TokenState};
use crate::secret::{Fingerprint, Secret};

/// What every token may ask of itself, unless its policy forbids even that.
const LOOKUP: &str = "auth/token/lookup-self";
/// A token younger than this is a fresh login's: a refusal is not its age's fault.
const FRESH: Duration = Duration::from_secs(300);
/// A token that dies younger than this makes the next logins wait.
const YOUNG: Duration = Duration::from_secs(60);

/// The session.
pub(super) struct Session {
    pub(super) client: Arc<Client>,
    pub(super) method: Box<dyn LoginMethod>,
    namespace: String,
    pub(super) held: watch::Sender<Held>,
    /// Somebody waits for a login.
    pub(super) wanted: Notify,
    /// A login is wanted although a token is held.
    pub(super) renew_by_login: AtomicBool,
    /// Whether the renewer runs: without it, no login follows another.
    pub(super) renewer_runs: AtomicBool,
    /// The last token died young.
    pub(super) died_young: AtomicBool,
    uses: AtomicU64,
    /// The newest token, by its generation, that was good for anything.
    worked: AtomicU64,
    /// A token, by its generation, that a login has just given us, and what was refused to it all the same.
    denied_fresh_token: Mutex<Option<(u64, String)>>,
    /// One look at a refused token at a time: its generation, and when it was found alive.
    looking: tokio::sync::Mutex<Option<(u64, Instant)>>,
    problem: Mutex<Option<String>>,
    /// What a login depends on beside its secret.
    scope: String,
    /// A hash of the credentials that were refused.
    refused: Mutex<Option<String>>,
}

/// What is held, and how the last login ended.
#[derive(Default)]
pub(super) struct Held {
    pub(super) token: Option<Arc<Token>>,
    /// Logins tried, good or not: who waits sees that one has ended.
    pub(super) attempts: u64,
    pub(super) failure: Option<KeyServiceError>,
}

/// What the server says of a token (`auth/token/lookup-self`), as far as it is used.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Lookup {
    /// Seconds until it ends; 0 is no end.
    pub ttl: u64,
    /// Whether it can be renewed.
    #[serde(default)]
    pub renewable: bool,
    /// How many uses it has; 0 is no limit.
    #[serde(default)]
    pub num_uses: u64,
    /// Its policies.
    #[serde(default)]
    pub policies: Vec<String>,
    /// Seconds after its creation at which it ends, whatever renews it; 0 is no such end.
    #[serde(default)]
    pub explicit_max_ttl: u64,
    /// Seconds that each renewal grants, without an end; 0 when renewals end at a maximum.
    #[serde(default)]
    pub period: u64,
    /// When it was made, in seconds since 1970.
    #[serde(default)]
    pub creation_time: i64,
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
            wanted: Notify::new(),
            renew_by_login: AtomicBool::new(false),
            renewer_runs: AtomicBool::new(false),
            died_young: AtomicBool::new(false),
            uses: AtomicU64::new(0),
            worked: AtomicU64::new(0),
            denied_fresh_token: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            problem: Mutex::default(),
            scope,
            refused: Mutex::default(),
        }
    }

    /// The token that is held, if one is.
    pub(super) fn current(&self) -> Option<Arc<Token>> {
        self.held.borrow().token.clone()
    }

    /// The token to use now. Without one, waits for the login that is then made.
    pub(super) async fn token(&self, deadline: Deadline) -> Result<Arc<Token>, KeyServiceError> {
        if let Some(token) = self.current() {
            self.count_use(&token);
            return Ok(token);
        }
        self.next_login(deadline, |held| held.token.is_some()).await
    }

    /// Asks for a login and waits until one has ended, or `enough` is there.
    async fn next_login(
        &self,
        deadline: Deadline,
        enough: impl Fn(&Held) -> bool,
    ) -> Result<Arc<Token>, KeyServiceError> {
        let mut held = self.held.subscribe();
        let before = held.borrow_and_update().attempts;
        self.wanted.notify_one();
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
            "see whether the key service hangs, or whether the way to it is slow",
        )
    }

    /// A token with a limit of uses is replaced when a fifth of them is left.
    fn count_use(&self, token: &Token) {
        if token.num_uses > 0 && self.uses.fetch_add(1, Ordering::Relaxed) + 1 == token.uses_before_login() {
            self.renew_by_login.store(true, Ordering::Relaxed);
            self.wanted.notify_one();
        }
    }

    /// The files whose change is worth a login: credentials, and what TLS is made of.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files = self.method.files();
        files.extend(self.client.tls_files());
        files.sort_unstable();
        files.dedup();
        files
    }

    pub(super) fn begin_uses(&self) {
        self.uses.store(0, Ordering::Relaxed);
    }

    /// A call to `path` was refused with `token`. When the token is dead, returns a new one; when it is alive, the
    /// refusal is about policy or key, and `None` is returned.
    pub(super) async fn after_refusal(
        &self,
        token: &Token,
        path: &str,
        deadline: Deadline,
    ) -> Result<Option<Arc<Token>>, KeyServiceError> {
        let asked = Instant::now();
        let looking = tokio::time::timeout_at(deadline.instant(), self.looking.lock()).await;
        let mut looking = looking.map_err(|_| KeyServiceError::deadline("looking at a refused token"))?;
        match self.current() {
            Some(current) if current.generation > token.generation => return Ok(Some(current)),
            None => {
                drop(looking);
                return self.token(deadline).await.map(Some);
            }
            Some(_) => {}
        }
        // Who was refused before the last look ended shares what it found.
        if looking.is_some_and(|(generation, at)| generation == token.generation && at >= asked) {
            return Ok(None);
        }
        if self.is_denied_fresh(token) {
            return Ok(None);
        }
        if self.lookup(&token.secret, deadline).await?.is_some() {
            self.worked.fetch_max(token.generation, Ordering::Relaxed);
            *looking = Some((token.generation, Instant::now()));
            return Ok(None);
        }
        if !self.renewer_runs.load(Ordering::Relaxed) {
            return Ok(None);
        }
        // It may not even be looked at: nothing is granted to it, and the next one would be no better.
        if self.method.logs_in() && self.worked.load(Ordering::Relaxed) < token.generation {
            *self.denied_fresh_token.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((token.generation, path.to_owned()));
            if self.is_denied_fresh(token) {
                return Ok(None);
            }
        }
        tracing::warn!(KMS_REASON = "token_dead", "the token is no longer valid; logging in again");
        self.discard(token);
        drop(looking);
        self.token(deadline).await.map(Some)
    }

    /// Whether a refusal of this token is not the token's fault: it is young, its lease runs, and it was refused
    /// before it was good for anything. After a while another login is worth its request.
    fn is_denied_fresh(&self, token: &Token) -> bool {
        let denied_fresh_token = self.denied_fresh_token.lock().unwrap_or_else(PoisonError::into_inner);
        denied_fresh_token.as_ref().is_some_and(|(generation, _)| *generation == token.generation)
            && token.born.elapsed() < YOUNG
            && token.lease.end().is_none_or(|end| end > Instant::now())
    }

    /// A call to `path` was answered well with this token.
    pub(super) fn note_use(&self, token: &Token, path: &str) {
        self.worked.fetch_max(token.generation, Ordering::Relaxed);
        let mut denied_fresh_token = self.denied_fresh_token.lock().unwrap_or_else(PoisonError::into_inner);
        // What it was refused works now: it has what it needs.
        if denied_fresh_token.as_ref().is_some_and(|(_, refused)| refused == path) {
            *denied_fresh_token = None;
        }
    }

    fn discard(&self, token: &Token) {
        self.died_young.store(token.born.elapsed() < YOUNG, Ordering::Relaxed);
        self.held.send_if_modified(|held| {
            let same = held.token.as_ref().is_some_and(|held| held.generation == token.generation);
            if same {
                held.token = None;
            }
            same
        });
    }

    /// A token that is alive and of a recent login: with it, a refusal is the server's last word. A role
    /// may have been given other policies since an older login.
    pub(super) async fn fresh(&self, deadline: Deadline) -> Result<Arc<Token>, KeyServiceError> {
        let mut token = self.token(deadline).await?;
        if token.born.elapsed() > FRESH && self.method.logs_in() {
            self.renew_by_login.store(true, Ordering::Relaxed);
            token = self.next_login(deadline, |_| false).await?;
        }
        Ok(self.after_refusal(&token, LOOKUP, deadline).await?.unwrap_or(token))
    }

    /// `lookup-self`; `None` when the server does not know the token, or does not let it ask.
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
                    return match refusal.status {
                        403 => Ok(None),
                        _ => Err(refusal.of_login("looking at our token", "look at the server's log")),
                    };
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

    pub(super) fn set_problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Records which credentials were refused, or that none are.
    pub(super) fn set_refused(&self, fingerprint: Option<Fingerprint>) {
        let salted = fingerprint.map(|fingerprint| fingerprint.salted(self.scope.as_bytes()));
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = salted;
    }

    /// The token's state, without the token.
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
