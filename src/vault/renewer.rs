//! The session's renewer: the only place that logs in and renews.
//!
//! Credentials that were refused are not sent again until they change: nodes share a role, and a server
//! locks a role after a few failures. A token that dies young makes the next logins wait.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use reqwest::Method;
use serde::Deserialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::client::CallError;
use super::login::Credentials;
use super::session::Session;
use super::token::{Lease, Next, Token};
use crate::clock::Deadline;
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::retry::{Backoff, jitter, spread};
use crate::secret::{Fingerprint, Secret};

/// How long refused credentials rest, when nothing changes.
const REFUSED_REST: Duration = Duration::from_secs(15 * 60);
/// How often the credential files are looked at.
const FILE_CHECK: Duration = Duration::from_secs(2);
/// Time for one login or renewal.
const LOGIN: Duration = Duration::from_secs(5);
/// Least and longest time between two logins, while tokens die young.
const PACE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// Least and longest time until a failed refresh of a living token is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Longest lease that is believed: ten years.
const MAX_LEASE: u64 = 10 * 365 * 86_400;

#[derive(Deserialize)]
struct LoginAnswer {
    auth: Granted,
}

#[derive(Deserialize)]
struct Granted {
    #[serde(default)]
    client_token: Zeroizing<String>,
    lease_duration: u64,
    renewable: bool,
    #[serde(default)]
    num_uses: u64,
}

/// A lease in seconds; zero is no expiry.
fn lease(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.min(MAX_LEASE)))
}

/// When a file was last changed; `None` when it is not there.
type Stamps = Vec<(PathBuf, Option<SystemTime>)>;

/// What the renewer remembers from turn to turn.
struct Renewer {
    logins: u64,
    refused: Option<(Fingerprint, Instant, KeyServiceError)>,
    pace: Backoff,
    retry: Backoff,
    /// When the lease that began at the first instant is due, so that its jitter is drawn once.
    plan: Option<(Instant, Option<Instant>)>,
    /// New credentials were refused while the old token lives: renewing it does not mend that.
    login_failed: bool,
    seen: Stamps,
}

impl Session {
    /// Logs in when a token is wanted, renews and logs in ahead of time, and looks after changed
    /// credential files. Never returns.
    pub(super) async fn maintain(&self) {
        self.renewer_runs.store(true, Ordering::Relaxed);
        let mut renewer = Renewer {
            logins: 0,
            refused: None,
            pace: Backoff::new(PACE.0, PACE.1),
            retry: Backoff::new(RETRY.0, RETRY.1),
            plan: None,
            login_failed: false,
            seen: self.file_stamps(),
        };
        loop {
            let due = self.current().and_then(|token| self.due(&mut renewer, &token));
            let look = Instant::now() + FILE_CHECK;
            let wanted = tokio::select! {
                () = self.wanted.notified() => true,
                () = tokio::time::sleep_until(due.map_or(look, |due| due.min(look))) => false,
            };
            self.turn(&mut renewer, wanted).await;
        }
    }

    async fn turn(&self, renewer: &mut Renewer, wanted: bool) {
        let stamps = self.file_stamps();
        let changed = stamps != renewer.seen;
        if changed {
            tracing::info!("a file with credentials or certificates changed; logging in with it");
            renewer.seen = stamps;
            if let Err(error) = self.client.reload_tls() {
                tracing::error!("{error}; the TLS files as they were stay in use");
            }
        }
        let Some(token) = self.current() else {
            if wanted || changed {
                self.log_in(renewer).await;
            }
            return;
        };
        let asked = self.renew_by_login.swap(false, Ordering::Relaxed);
        let due = self.due(renewer, &token).is_some_and(|due| due <= Instant::now());
        let renews =
            matches!(token.lease.next(0.0), Next::Renew(_)) && !token.lease.nearly_over(Instant::now());
        let done = match () {
            () if changed || asked => self.log_in(renewer).await,
            () if due && renews => self.renew(renewer, &token).await,
            () if due && self.method.logs_in() => self.log_in(renewer).await,
            () if due => {
                let text = "the token cannot be renewed and will expire".to_owned();
                tracing::warn!(remedy = self.method.remedy(), "{text}");
                self.set_problem(Some(text));
                renewer.plan = Some((token.lease.granted, None));
                true
            }
            () => true,
        };
        if done {
            renewer.retry.reset();
        } else {
            let again = Instant::now() + renewer.retry.next_delay();
            renewer.plan = Some((token.lease.granted, Some(again)));
        }
    }

    fn due(&self, renewer: &mut Renewer, token: &Token) -> Option<Instant> {
        match renewer.plan {
            Some((granted, due)) if granted == token.lease.granted => due,
            _ => {
                let due = match token.lease.next(jitter()) {
                    Next::Keep => None,
                    Next::Renew(at) | Next::Login(at) => Some(at),
                };
                renewer.plan = Some((token.lease.granted, due));
                due
            }
        }
    }

    /// One login; whoever waits learns how it ended.
    async fn log_in(&self, renewer: &mut Renewer) -> bool {
        if self.died_young.swap(false, Ordering::Relaxed) {
            tokio::time::sleep(renewer.pace.next_delay()).await;
        } else {
            renewer.pace.reset();
        }
        let result = self.attempt(renewer).await;
        self.client.metrics.login(result.as_ref().err().map_or("ok", |error| error.kind().name()));
        renewer.login_failed = result.is_err();
        let good = match &result {
            Ok(token) => {
                tracing::info!(method = self.method.name(), ttl = ?token.lease.ttl, "logged in");
                self.set_problem(None);
                self.begin_uses();
                true
            }
            Err(error) => {
                if self.current().is_some() {
                    tracing::warn!(
                        KMS_REASON = error.kind().name(),
                        KMS_REMEDY = error.remedy(),
                        "the token was not replaced: {error}"
                    );
                }
                self.set_problem(Some(error.to_string()));
                false
            }
        };
        self.held.send_modify(|held| {
            held.attempts += 1;
            match result {
                Ok(token) => (held.token, held.failure) = (Some(Arc::new(token)), None),
                Err(error) => held.failure = Some(error),
            }
        });
        good
    }

    async fn attempt(&self, renewer: &mut Renewer) -> Result<Token, KeyServiceError> {
        let fingerprint = self.method.fingerprint()?;
        if let Some((refused, until, error)) = &renewer.refused
            && *refused == fingerprint
            && *until > Instant::now()
        {
            return Err(error.clone());
        }
        match self.obtain(Deadline::after(LOGIN)).await {
            Ok(mut token) => {
                renewer.refused = None;
                self.set_refused(None);
                renewer.logins += 1;
                token.generation = renewer.logins;
                Ok(token)
            }
            Err(error) => {
                if error.kind() == ErrorKind::CredentialsRefused {
                    tracing::error!(KMS_REASON = error.kind().name(), KMS_REMEDY = error.remedy(), "{error}");
                    self.set_refused(Some(fingerprint));
                    renewer.refused =
                        Some((fingerprint, Instant::now() + spread(REFUSED_REST), error.clone()));
                }
                Err(error)
            }
        }
    }

    /// Asks for a token once, with the credentials as they are now.
    pub(super) async fn obtain(&self, deadline: Deadline) -> Result<Token, KeyServiceError> {
        let granted = Instant::now();
        match self.method.credentials(&self.client, deadline).await? {
            Credentials::Token(secret) => self.adopt(secret, granted, deadline).await,
            Credentials::Login { path, body } => self.exchange(&path, &body, granted, deadline).await,
        }
    }

    async fn exchange(
        &self,
        path: &str,
        body: &Zeroizing<Vec<u8>>,
        granted: Instant,
        deadline: Deadline,
    ) -> Result<Token, KeyServiceError> {
        let request = self.request(Method::POST, path, None, Some(body));
        loop {
            match self.client.call(&request, deadline).await {
                Ok(answer) => {
                    let LoginAnswer { auth } = answer.parse()?;
                    return Ok(Token {
                        secret: Secret::new(auth.client_token.as_str().to_owned()),
                        generation: 0,
                        born: granted,
                        lease: Lease::new(granted, lease(auth.lease_duration), auth.renewable),
                        num_uses: auth.num_uses,
                        index: answer.index,
                    });
                }
                Err(CallError::Failed(error)) => return Err(error),
                Err(CallError::Refused(refusal)) => {
                    if self.client.is_other_cluster(refusal.address, deadline).await {
                        continue;
                    }
                    let what = format!("login by {} at {path}", self.method.name());
                    return Err(refusal.of_login(&what, &self.method.remedy()));
                }
            }
        }
    }

    /// Takes over a token made by somebody else, and learns its lease.
    async fn adopt(
        &self,
        secret: Secret,
        granted: Instant,
        deadline: Deadline,
    ) -> Result<Token, KeyServiceError> {
        let Some(lookup) = self.lookup(&secret, deadline).await? else {
            return Err(KeyServiceError::new(
                ErrorKind::CredentialsRefused,
                "the token in the token file is not valid: expired, revoked, or never one of this server",
                self.method.remedy(),
            ));
        };
        Ok(Token {
            secret,
            generation: 0,
            born: granted,
            lease: Lease::new(granted, lease(lookup.ttl), lookup.renewable),
            num_uses: lookup.num_uses,
            index: None,
        })
    }

    async fn renew(&self, renewer: &Renewer, token: &Arc<Token>) -> bool {
        let granted = Instant::now();
        let request = self.request(Method::POST, "auth/token/renew-self", Some(&token.secret), None);
        let answer = self.client.call(&request, Deadline::after(LOGIN)).await;
        let parsed = answer.and_then(|answer| Ok(answer.parse::<LoginAnswer>()?.auth));
        let outcome = match &parsed {
            Ok(_) => "ok",
            Err(CallError::Refused(_)) => "refused",
            Err(CallError::Failed(error)) => error.kind().name(),
        };
        self.client.metrics.renewal(outcome);
        let renewed = match parsed {
            Ok(auth) => token.lease.renewed(granted, lease(auth.lease_duration), auth.renewable),
            // The policy need not allow it, and a dead token is found out by its use.
            Err(CallError::Refused(_)) => {
                tracing::debug!("the token may not be renewed; a login will replace it");
                token.lease.unrenewable(granted)
            }
            Err(CallError::Failed(error)) => {
                tracing::warn!(
                    KMS_REASON = error.kind().name(),
                    KMS_REMEDY = error.remedy(),
                    "the token was not renewed: {error}"
                );
                self.set_problem(Some(error.to_string()));
                return false;
            }
        };
        self.held.send_if_modified(|held| {
            let same = held.token.as_ref().is_some_and(|held| held.generation == token.generation);
            if same {
                held.token = Some(Arc::new(token.with_lease(renewed)));
            }
            same
        });
        if !renewer.login_failed {
            self.set_problem(None);
        }
        true
    }

    fn file_stamps(&self) -> Stamps {
        let stamp = |path: PathBuf| {
            let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
            (path, modified)
        };
        self.files().into_iter().map(stamp).collect()
    }
}
