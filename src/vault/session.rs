//! Our token at the cluster: login in a single flight, renewal ahead of time, re-login after a refusal.
//!
//! Must not know Transit. Credentials that were refused are not tried again until they change: nodes
//! share a role, and a server locks a role after a few failures.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::Method;
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::client::{Answer, CallError, Client, Request, not_vault};
use super::login::{Credentials, LoginMethod};
use super::token::{Lease, Next, Token};
use crate::backend::{BackendError, ErrorKind, TokenState};
use crate::clock::{Deadline, unix_seconds};
use crate::retry::{Backoff, jitter, spread};
use crate::secret::{Fingerprint, Secret};

/// How long refused credentials rest, when nothing changes.
const REFUSED_REST: Duration = Duration::from_secs(15 * 60);
/// How long the finding that a token is valid spares another look.
const VALID_KEPT: Duration = Duration::from_secs(5);
/// How often the credential files are looked at.
const FILE_CHECK: Duration = Duration::from_secs(2);
/// Time for one login or renewal in the background.
const BACKGROUND: Duration = Duration::from_secs(10);
/// Least time between two logins that a dying token forces; it doubles while that goes on.
const FIRST_PACE: Duration = Duration::from_millis(200);
/// Longest time between two logins that a dying token forces.
const LONGEST_PACE: Duration = Duration::from_secs(60);

/// The session.
pub(super) struct Session {
    client: Arc<Client>,
    method: Box<dyn LoginMethod>,
    namespace: String,
    token: watch::Sender<Option<Arc<Token>>>,
    flight: tokio::sync::Mutex<Flight>,
    poke: Notify,
    uses: AtomicU64,
    problem: Mutex<Option<String>>,
}

/// What one login must know of those before it; held by whoever logs in.
struct Flight {
    logins: u64,
    refused: Option<(Fingerprint, Instant, BackendError)>,
    /// The result of the last failed login, shared with those who waited for it.
    failed: Option<(Instant, BackendError)>,
    valid: Option<(u64, Instant)>,
    pace: Backoff,
    not_before: Instant,
}

#[derive(Deserialize)]
struct LoginAnswer {
    auth: Granted,
}

#[derive(Deserialize)]
struct Granted {
    client_token: Zeroizing<String>,
    lease_duration: u64,
    renewable: bool,
    #[serde(default)]
    num_uses: u64,
}

#[derive(Deserialize)]
struct LookupAnswer {
    data: Lookup,
}

#[derive(Deserialize)]
struct Lookup {
    ttl: u64,
    #[serde(default)]
    renewable: bool,
    #[serde(default)]
    num_uses: u64,
}

fn lease(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

impl Session {
    pub(super) fn new(client: Arc<Client>, method: Box<dyn LoginMethod>, namespace: String) -> Self {
        let flight = Flight {
            logins: 0,
            refused: None,
            failed: None,
            valid: None,
            pace: Backoff::new(FIRST_PACE, LONGEST_PACE),
            not_before: Instant::now(),
        };
        Self {
            client,
            method,
            namespace,
            token: watch::channel(None).0,
            flight: tokio::sync::Mutex::new(flight),
            poke: Notify::new(),
            uses: AtomicU64::new(0),
            problem: Mutex::default(),
        }
    }

    /// The token to use now; logs in when there is none.
    pub(super) async fn token(&self, deadline: Deadline) -> Result<Arc<Token>, BackendError> {
        let current = self.token.borrow().clone();
        match current {
            Some(token) => {
                self.count_use(&token);
                Ok(token)
            }
            None => self.login(None, deadline).await,
        }
    }

    /// A token with a limit of uses is replaced when a fifth of them is left.
    fn count_use(&self, token: &Token) {
        if token.num_uses > 0 {
            let used = self.uses.fetch_add(1, Ordering::Relaxed) + 1;
            if used == (token.num_uses * 4 / 5).max(1) {
                self.poke.notify_one();
            }
        }
    }

    /// A call was refused with `token`. Finds out whether the token is dead; if so, returns a new one.
    /// If the token is alive, the refusal is about policy or key, and `Ok(None)` is returned.
    pub(super) async fn after_refusal(
        &self,
        token: &Token,
        deadline: Deadline,
    ) -> Result<Option<Arc<Token>>, BackendError> {
        let asked = Instant::now();
        let mut flight = self.enter(deadline).await?;
        if let Some(newer) = self.newer(Some(token.generation)) {
            return Ok(Some(newer));
        }
        let kept =
            |(generation, at): (u64, Instant)| generation == token.generation && at.elapsed() < VALID_KEPT;
        if flight.valid.is_some_and(kept) {
            return Ok(None);
        }
        if self.is_alive(&token.secret, deadline).await? {
            flight.valid = Some((token.generation, Instant::now()));
            return Ok(None);
        }
        tracing::warn!(KMS_REASON = "token_dead", "the token is no longer valid; logging in again");
        self.fly(&mut flight, asked, deadline).await.map(Some)
    }

    /// Logs in, unless somebody else has done so since generation `than`.
    async fn login(&self, than: Option<u64>, deadline: Deadline) -> Result<Arc<Token>, BackendError> {
        let asked = Instant::now();
        let mut flight = self.enter(deadline).await?;
        match self.newer(than) {
            Some(token) => Ok(token),
            None => self.fly(&mut flight, asked, deadline).await,
        }
    }

    async fn enter(&self, deadline: Deadline) -> Result<tokio::sync::MutexGuard<'_, Flight>, BackendError> {
        let entered = tokio::time::timeout_at(deadline.instant(), self.flight.lock()).await;
        entered.map_err(|_| BackendError::deadline("waiting for a login"))
    }

    fn newer(&self, than: Option<u64>) -> Option<Arc<Token>> {
        self.token.borrow().clone().filter(|token| than.is_none_or(|than| token.generation > than))
    }

    /// One login by the holder of the flight. Those who asked before it failed share its failure.
    async fn fly(
        &self,
        flight: &mut Flight,
        asked: Instant,
        deadline: Deadline,
    ) -> Result<Arc<Token>, BackendError> {
        if let Some((at, error)) = &flight.failed
            && *at >= asked
        {
            return Err(error.clone());
        }
        if tokio::time::timeout_at(deadline.instant(), tokio::time::sleep_until(flight.not_before))
            .await
            .is_err()
        {
            return Err(BackendError::deadline("waiting for the next login: the last tokens died at once"));
        }
        let result = self.attempt(flight, deadline).await;
        match &result {
            Ok(token) => {
                flight.failed = None;
                // A token that outlives the pace shows that all is well again.
                if flight.not_before.elapsed() > LONGEST_PACE {
                    flight.pace.reset();
                }
                flight.not_before = Instant::now() + flight.pace.next_delay();
                tracing::info!(method = self.method.name(), ttl = ?token.lease.ttl, "logged in");
                self.set_problem(None);
            }
            Err(error) => {
                flight.failed = Some((Instant::now(), error.clone()));
                self.set_problem(Some(error.to_string()));
            }
        }
        result
    }

    async fn attempt(&self, flight: &mut Flight, deadline: Deadline) -> Result<Arc<Token>, BackendError> {
        let granted = Instant::now();
        let credentials = self.method.credentials(&self.client, deadline).await?;
        let (fingerprint, result) = match credentials {
            Credentials::Token(secret) => {
                let fingerprint = secret.fingerprint();
                self.rested(flight, fingerprint)?;
                (fingerprint, self.adopt(secret, granted, deadline).await)
            }
            Credentials::Login { path, body, fingerprint } => {
                self.rested(flight, fingerprint)?;
                (fingerprint, self.exchange(&path, &body, granted, deadline).await)
            }
        };
        match result {
            Ok(mut token) => {
                flight.refused = None;
                flight.logins += 1;
                token.generation = flight.logins;
                self.uses.store(0, Ordering::Relaxed);
                let token = Arc::new(token);
                self.token.send_replace(Some(token.clone()));
                self.poke.notify_one();
                Ok(token)
            }
            Err(error) => {
                if error.kind() == ErrorKind::CredentialsRefused {
                    tracing::error!(KMS_REASON = error.kind().name(), remedy = error.remedy(), "{error}");
                    let until = Instant::now() + spread(REFUSED_REST);
                    flight.refused = Some((fingerprint, until, error.clone()));
                }
                Err(error)
            }
        }
    }

    /// Refuses credentials that the server has refused and that did not change since.
    fn rested(&self, flight: &Flight, fingerprint: Fingerprint) -> Result<(), BackendError> {
        match &flight.refused {
            Some((refused, until, error)) if *refused == fingerprint && *until > Instant::now() => {
                Err(error.clone())
            }
            _ => Ok(()),
        }
    }

    async fn exchange(
        &self,
        path: &str,
        body: &Zeroizing<Vec<u8>>,
        granted: Instant,
        deadline: Deadline,
    ) -> Result<Token, BackendError> {
        let request = self.request(Method::POST, path, None, Some(body));
        loop {
            match self.client.call(&request, deadline).await {
                Ok(answer) => {
                    let parsed: LoginAnswer = parse(&answer)?;
                    let auth = parsed.auth;
                    return Ok(Token {
                        secret: Secret::new(auth.client_token.as_str().to_owned()),
                        generation: 0,
                        lease: Lease::new(granted, lease(auth.lease_duration), auth.renewable),
                        num_uses: auth.num_uses,
                        index: answer.index,
                    });
                }
                Err(CallError::Failed(error)) => return Err(error),
                Err(CallError::Refused(refusal)) => {
                    if self.client.is_foreign(refusal.address, deadline).await {
                        continue;
                    }
                    let what = format!("login by {} at {path}", self.method.name());
                    return Err(refusal.of_login(&what, &self.method.remedy()));
                }
            }
        }
    }

    /// Takes over a token made by somebody else, and learns its lease where it may ask.
    async fn adopt(
        &self,
        secret: Secret,
        granted: Instant,
        deadline: Deadline,
    ) -> Result<Token, BackendError> {
        let lookup = self.lookup(&secret, deadline).await?;
        let Some(lookup) = lookup else {
            return Err(BackendError::new(
                ErrorKind::CredentialsRefused,
                "the token in the token file is not valid, expired or revoked",
                self.method.remedy(),
            ));
        };
        Ok(Token {
            secret,
            generation: 0,
            lease: Lease::new(granted, lease(lookup.ttl), lookup.renewable),
            num_uses: lookup.num_uses,
            index: None,
        })
    }

    async fn is_alive(&self, token: &Secret, deadline: Deadline) -> Result<bool, BackendError> {
        Ok(self.lookup(token, deadline).await?.is_some())
    }

    /// `lookup-self`; `None` when the server does not know the token, or does not let it ask.
    async fn lookup(&self, token: &Secret, deadline: Deadline) -> Result<Option<Lookup>, BackendError> {
        let request = self.request(Method::GET, "auth/token/lookup-self", Some(token), None);
        loop {
            match self.client.call(&request, deadline).await {
                Ok(answer) => return parse::<LookupAnswer>(&answer).map(|answer| Some(answer.data)),
                Err(CallError::Failed(error)) => return Err(error),
                Err(CallError::Refused(refusal)) => {
                    if !self.client.is_foreign(refusal.address, deadline).await {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn request<'a>(
        &'a self,
        method: Method,
        path: &'a str,
        token: Option<&'a Secret>,
        body: Option<&'a Zeroizing<Vec<u8>>>,
    ) -> Request<'a> {
        Request { method, path, namespace: &self.namespace, token, index: None, body }
    }

    /// Renews and logs in ahead of time, for ever; looks after changed credential files.
    pub(super) async fn maintain(&self) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let mut seen = self.file_stamps();
        let mut due: Option<(u64, Instant, Instant)> = None;
        loop {
            let current = self.token.borrow().clone();
            let Some(token) = current else {
                // The first login belongs to whoever needs the first token: the check of the key.
                // After a refusal, a changed file is worth another one at once.
                tokio::select! {
                    () = self.poke.notified() => {}
                    () = tokio::time::sleep(FILE_CHECK) => {}
                }
                let stamps = self.file_stamps();
                if stamps != seen {
                    seen = stamps;
                    let _logged = self.login(None, Deadline::after(BACKGROUND)).await;
                }
                continue;
            };
            // One plan for one lease: drawing the jitter anew in each turn would let it drift.
            let plan = match due {
                Some((generation, granted, at))
                    if (generation, granted) == (token.generation, token.lease.granted) =>
                {
                    at
                }
                _ => self.plan(&token),
            };
            due = Some((token.generation, token.lease.granted, plan));
            tokio::select! {
                () = tokio::time::sleep_until(plan) => {}
                () = tokio::time::sleep(FILE_CHECK) => {}
                () = self.poke.notified() => {}
            }
            let stamps = self.file_stamps();
            let changed = stamps != seen;
            if changed {
                tracing::info!("a credential file changed; logging in with it");
                seen = stamps;
            }
            let used_up =
                token.num_uses > 0 && self.uses.load(Ordering::Relaxed) >= (token.num_uses * 4 / 5).max(1);
            if !changed && !used_up && Instant::now() < plan {
                continue;
            }
            let deadline = Deadline::after(BACKGROUND);
            let renew =
                matches!(token.lease.next(0.0), Next::Renew(_)) && !token.lease.nearly_over(Instant::now());
            let result = if renew && !changed && !used_up {
                self.renew(&token, deadline).await
            } else {
                self.login(Some(token.generation), deadline).await.map(drop)
            };
            match result {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    tracing::warn!(
                        KMS_REASON = error.kind().name(),
                        remedy = error.remedy(),
                        "the token was not refreshed: {error}"
                    );
                    self.set_problem(Some(error.to_string()));
                    due =
                        Some((token.generation, token.lease.granted, Instant::now() + backoff.next_delay()));
                }
            }
        }
    }

    fn plan(&self, token: &Token) -> Instant {
        match token.lease.next(jitter()) {
            Next::Keep => Instant::now() + REFUSED_REST,
            Next::Renew(at) | Next::Login(at) => at,
        }
    }

    async fn renew(&self, token: &Arc<Token>, deadline: Deadline) -> Result<(), BackendError> {
        let granted = Instant::now();
        let request = self.request(Method::POST, "auth/token/renew-self", Some(&token.secret), None);
        let renewed = match self.client.call(&request, deadline).await {
            Ok(answer) => {
                let auth = parse::<LoginAnswer>(&answer)?.auth;
                token.lease.renewed(granted, lease(auth.lease_duration), auth.renewable)
            }
            // The policy need not allow it, and a dead token is found out by its use.
            Err(CallError::Refused(_)) => {
                tracing::debug!("the token may not be renewed; a login will replace it");
                token.lease.unrenewable()
            }
            Err(CallError::Failed(error)) => return Err(error),
        };
        self.token.send_if_modified(|current| {
            let same = current.as_ref().is_some_and(|current| current.generation == token.generation);
            if same {
                *current = Some(Arc::new(Token {
                    secret: token.secret.clone(),
                    generation: token.generation,
                    lease: renewed,
                    num_uses: token.num_uses,
                    index: token.index.clone(),
                }));
            }
            same
        });
        self.set_problem(None);
        Ok(())
    }

    fn file_stamps(&self) -> Vec<(PathBuf, Option<SystemTime>)> {
        let stamp = |path: PathBuf| {
            let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
            (path, modified)
        };
        self.method.files().into_iter().map(stamp).collect()
    }

    fn set_problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// The token's state, without the token.
    pub(super) fn state(&self) -> TokenState {
        let token = self.token.borrow().clone();
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
        }
    }
}

fn parse<T: serde::de::DeserializeOwned>(answer: &Answer) -> Result<T, BackendError> {
    serde_json::from_slice(&answer.body).map_err(|_| not_vault("the server"))
}
