//! The token renewer: the only place that logs in and renews.
//!
//! Refused credentials are not sent again until they change: several nodes share a role, and the server locks a role
//! after a few failures. A token that becomes invalid soon after its login delays the next logins.

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
use crate::clock::{Deadline, Purpose};
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::retry::{Backoff, jitter, spread};
use crate::secret::{Fingerprint, Secret};

/// How long refused credentials are not sent again, when nothing changes.
const REFUSED_PAUSE: Duration = Duration::from_secs(15 * 60);
/// How often the credential files are checked for changes.
const FILE_CHECK: Duration = Duration::from_secs(2);
/// Time for one login or renewal.
const LOGIN: Duration = Duration::from_secs(5);
/// Shortest and longest time between two logins, while tokens end early.
const LOGIN_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// Shortest and longest time until a failed renewal of a valid token is retried.
const RENEWAL_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Longest lease, in seconds: ten years. A longer one is shortened to this.
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

/// A lease in seconds; zero means no expiry.
fn lease(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.min(MAX_LEASE)))
}

/// When each file was last changed; `None` when the file does not exist.
type Stamps = Vec<(PathBuf, Option<SystemTime>)>;

/// The state of the renewer between two steps.
struct Renewer {
    logins: u64,
    /// The refused or denied credentials, until when they are not sent again, and the error.
    refused: Option<(Fingerprint, Instant, KeyServiceError)>,
    login_backoff: Backoff,
    renewal_backoff: Backoff,
    /// The start of the current lease, and when its renewal or login is due: the jitter is drawn once for each lease.
    schedule: Option<(Instant, Option<Instant>)>,
    /// Whether the last login failed. Then a renewal of the old token does not clear the reported problem.
    login_failed: bool,
    stamps: Stamps,
}

impl Session {
    /// Logs in when a caller waits for a token, renews and logs in ahead of time, and logs in when a credential file
    /// changes. Never returns.
    pub(super) async fn maintain(&self) {
        self.renewer_runs.store(true, Ordering::Relaxed);
        let mut renewer = Renewer {
            logins: 0,
            refused: None,
            login_backoff: Backoff::new(LOGIN_BACKOFF.0, LOGIN_BACKOFF.1),
            renewal_backoff: Backoff::new(RENEWAL_BACKOFF.0, RENEWAL_BACKOFF.1),
            schedule: None,
            login_failed: false,
            stamps: self.file_stamps().await.unwrap_or_default(),
        };
        loop {
            let due = self.current().and_then(|token| self.due(&mut renewer, &token));
            let file_check = Instant::now() + FILE_CHECK;
            let requested = tokio::select! {
                biased;
                () = self.login_requested.notified() => true,
                () = tokio::time::sleep_until(due.map_or(file_check, |due| due.min(file_check))) => false,
            };
            self.step(&mut renewer, requested).await;
        }
    }

    async fn step(&self, renewer: &mut Renewer, requested: bool) {
        // While the file system hangs, it is not known whether a file has changed.
        let stamps = self.file_stamps().await.filter(|stamps| *stamps != renewer.stamps);
        let changed = stamps.is_some();
        if let Some(stamps) = stamps {
            tracing::info!("a file with credentials or certificates changed; logging in again");
            renewer.stamps = stamps;
            if let Err(error) = self.client.reload_tls().await {
                tracing::error!("{error}; the old TLS configuration stays in use");
            }
        }
        let Some(token) = self.current() else {
            if requested || changed {
                self.log_in(renewer).await;
            }
            return;
        };
        let replacement_requested = self.replacement_requested.swap(false, Ordering::Relaxed);
        let due = self.due(renewer, &token).is_some_and(|due| due <= Instant::now());
        let renews =
            matches!(token.lease.next(0.0), Next::Renew(_)) && !token.lease.nearly_over(Instant::now());
        let done = match () {
            () if changed || replacement_requested => self.log_in(renewer).await,
            () if due && renews => self.renew(renewer, &token).await,
            () if due && self.method.logs_in() => self.log_in(renewer).await,
            () if due => {
                let text = "the token cannot be renewed and will expire".to_owned();
                tracing::warn!(remedy = self.method.remedy(), "{text}");
                self.set_problem(Some(text));
                renewer.schedule = Some((token.lease.granted, None));
                true
            }
            () => true,
        };
        if done {
            renewer.renewal_backoff.reset();
        } else {
            let again = Instant::now() + renewer.renewal_backoff.next_delay();
            renewer.schedule = Some((token.lease.granted, Some(again)));
        }
    }

    /// When the next renewal or login is due.
    fn due(&self, renewer: &mut Renewer, token: &Token) -> Option<Instant> {
        match renewer.schedule {
            Some((granted, due)) if granted == token.lease.granted => due,
            _ => {
                let due = match token.lease.next(jitter()) {
                    Next::Keep => None,
                    Next::Renew(at) | Next::Login(at) => Some(at),
                };
                renewer.schedule = Some((token.lease.granted, due));
                due
            }
        }
    }

    /// Logs in once. The callers that wait get the result. Returns whether it succeeded.
    async fn log_in(&self, renewer: &mut Renewer) -> bool {
        if self.ended_early.swap(false, Ordering::Relaxed) {
            tokio::time::sleep(renewer.login_backoff.next_delay()).await;
        } else {
            renewer.login_backoff.reset();
        }
        let result = self.attempt(renewer).await;
        self.client.metrics.login(result.as_ref().err().map_or("ok", |error| error.kind().name()));
        renewer.login_failed = result.is_err();
        let succeeded = match &result {
            Ok(token) => {
                tracing::info!(method = self.method.name(), ttl = ?token.lease.ttl, "logged in");
                self.set_problem(None);
                self.reset_uses();
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
        self.end_login(result);
        succeeded
    }

    async fn attempt(&self, renewer: &mut Renewer) -> Result<Token, KeyServiceError> {
        let fingerprint = self.method.fingerprint(&self.client).await?;
        if let Some((refused, until, error)) = &renewer.refused
            && *refused == fingerprint
            && *until > Instant::now()
        {
            return Err(error.clone());
        }
        match self.request_token(Deadline::after(LOGIN).of(Purpose::Upkeep)).await {
            Ok(mut token) => {
                renewer.refused = None;
                self.set_refused(None);
                renewer.logins += 1;
                token.generation = renewer.logins;
                Ok(token)
            }
            Err(error) => {
                // A denied login says nothing about the credentials, and may be tried again soon.
                let definite = error.kind() == ErrorKind::CredentialsRefused;
                let pause = match error.retry_after() {
                    _ if definite => REFUSED_PAUSE,
                    Some(pause) if error.kind() == ErrorKind::Denied => pause,
                    _ => return Err(error),
                };
                tracing::error!(KMS_REASON = error.kind().name(), KMS_REMEDY = error.remedy(), "{error}");
                if definite {
                    self.set_refused(Some(fingerprint));
                }
                renewer.refused = Some((fingerprint, Instant::now() + spread(pause), error.clone()));
                Err(error)
            }
        }
    }

    /// Gets a token with the current credentials. Does not retry.
    pub(super) async fn request_token(&self, deadline: Deadline) -> Result<Token, KeyServiceError> {
        let granted = Instant::now();
        match self.method.credentials(&self.client, deadline).await? {
            Credentials::Token(secret) => self.adopt(secret, granted, deadline).await,
            Credentials::Login { path, body } => self.send_login(&path, &body, granted, deadline).await,
        }
    }

    async fn send_login(
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

    /// Uses a token that was created elsewhere. A lookup gives its lease.
    async fn adopt(
        &self,
        secret: Secret,
        granted: Instant,
        deadline: Deadline,
    ) -> Result<Token, KeyServiceError> {
        let Some(lookup) = self.lookup(&secret, deadline).await? else {
            return Err(KeyServiceError::new(
                ErrorKind::CredentialsRefused,
                "the token in the token file is not valid: it is expired, revoked, or of another server",
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
        let answer = self.client.call(&request, Deadline::after(LOGIN).of(Purpose::Upkeep)).await;
        let answer = answer.map_err(|error| error.unless_denied("renewing the token"));
        let parsed = answer.and_then(|answer| Ok(answer.parse::<LoginAnswer>()?.auth));
        let outcome = match &parsed {
            Ok(_) => "ok",
            Err(CallError::Refused(_)) => "refused",
            Err(CallError::Failed(error)) => error.kind().name(),
        };
        self.client.metrics.renewal(outcome);
        let renewed = match parsed {
            Ok(auth) => token.lease.renewed(granted, lease(auth.lease_duration), auth.renewable),
            // The policy may deny renewals. If the token itself is invalid, its next use shows that.
            Err(CallError::Refused(_)) => {
                tracing::debug!("the server refused to renew the token; a login will replace it");
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
        self.replace(token, Some(Arc::new(token.with_lease(renewed))));
        if !renewer.login_failed {
            self.set_problem(None);
        }
        true
    }

    /// `None` when the file system does not answer in time.
    async fn file_stamps(&self) -> Option<Stamps> {
        let stamp = |path: PathBuf| {
            let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
            (path, modified)
        };
        let files = self.files();
        self.client.files.run(move || files.into_iter().map(stamp).collect()).await.ok()
    }
}
