//! The requests of a session: log in, renew, look up. None is repeated here.
//!
//! Must not decide when one is sent: the step does.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;
use serde::Deserialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::super::client::{CallError, Client};
use super::super::login::{Credentials, LoginMethod};
use super::super::token::{Lease, Lookup, Token};
use super::super::transport::Request;
use super::files::WatchedFiles;
use super::state::{Files, Renewal};
use crate::clock::{Deadline, Purpose};
use crate::key_service::{ErrorKind, KeyServiceError};
use crate::secret::{Fingerprint, Secret};

/// Every token may use this path, unless its policy denies it.
pub(super) const LOOKUP: &str = "auth/token/lookup-self";
/// Time for one login, renewal or lookup.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest lease, in seconds: ten years. A longer one is shortened to this.
const MAX_LEASE: u64 = 10 * 365 * 86_400;

/// What the actor needs from outside. Each call ends by itself, within seconds.
#[async_trait]
pub(super) trait TokenRequests: Send + Sync {
    /// Whether these files have changed since the last call. If so, those of TLS are in use now.
    async fn files_changed(&self, files: Files) -> bool;
    /// The fingerprint of the credentials. Sends nothing.
    async fn fingerprint(&self) -> Result<Fingerprint, KeyServiceError>;
    async fn log_in(&self) -> Result<Token, KeyServiceError>;
    async fn renew(&self, token: &Token) -> Renewal;
    /// Whether the server knows the token and lets it look itself up.
    async fn is_valid(&self, token: &Token) -> Result<bool, KeyServiceError>;
}

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

fn deadline() -> Deadline {
    Deadline::after(TIMEOUT).of(Purpose::Upkeep)
}

/// The requests to one cluster.
pub(super) struct Requests {
    pub client: Arc<Client>,
    pub method: Box<dyn LoginMethod>,
    namespace: String,
    credentials: WatchedFiles,
    /// The files of the connection that are not credentials, too.
    tls: WatchedFiles,
}

impl Requests {
    pub(super) fn new(client: Arc<Client>, method: Box<dyn LoginMethod>, namespace: String) -> Self {
        let credentials = WatchedFiles::new(method.files());
        let tls = WatchedFiles::new(
            client.connection_files().into_iter().filter(|file| !credentials.contains(file)),
        );
        Self { client, method, namespace, credentials, tls }
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

    /// Calls `lookup-self`. `None` when the server does not know the token, or its policy denies the lookup.
    pub(super) async fn lookup(
        &self,
        token: Option<&Secret>,
        deadline: Deadline,
    ) -> Result<Option<Lookup>, KeyServiceError> {
        let request = self.request(Method::GET, LOOKUP, token, None);
        loop {
            match self.client.call(&request, deadline).await {
                Ok(answer) => return answer.data().map(Some),
                Err(CallError::Failed(error)) => return Err(error),
                Err(CallError::Refused(refusal)) => {
                    if self.client.is_other_cluster(refusal.address, deadline).await {
                        continue;
                    }
                    return match refusal.may_be_the_token() {
                        true => Ok(None),
                        false => Err(refusal.of_login("looking up the token", "see the server's log")),
                    };
                }
            }
        }
    }

    /// Gets a token with the current credentials. Does not retry.
    pub(super) async fn request_token(&self, deadline: Deadline) -> Result<Token, KeyServiceError> {
        let granted = Instant::now();
        match self.method.credentials(&self.client, deadline).await? {
            Credentials::Token(secret) => self.adopt(secret, granted, deadline).await,
            Credentials::OfTheProxy => Ok(Token::of_the_proxy(granted)),
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
                        secret: Some(Secret::new(auth.client_token.as_str().to_owned())),
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
        let Some(lookup) = self.lookup(Some(&secret), deadline).await? else {
            return Err(KeyServiceError::new(
                ErrorKind::CredentialsRefused,
                "the token in the token file is not valid: it is expired, revoked, or of another server",
                self.method.remedy(),
            ));
        };
        Ok(Token {
            secret: Some(secret),
            generation: 0,
            born: granted,
            lease: Lease::new(granted, lease(lookup.ttl), lookup.renewable),
            num_uses: lookup.num_uses,
            index: None,
        })
    }
}

#[async_trait]
impl TokenRequests for Requests {
    async fn files_changed(&self, files: Files) -> bool {
        let watched = match files {
            Files::Credentials => self.credentials.changed(&self.client.files).await,
            Files::Tls => self.tls.changed(&self.client.tls_access).await,
        };
        if !watched && files == Files::Tls {
            // A token of the certificate method belongs to the certificate of its login.
            return match self.client.reload_svid().await {
                Ok(replaced) => {
                    if replaced {
                        tracing::info!("the X.509-SVID was replaced; logging in again");
                    }
                    replaced
                }
                Err(error) => {
                    // Tried again at the next check. The change of a file, or the next login, reports it to people.
                    tracing::debug!("{error}; the old connections stay in use");
                    false
                }
            };
        }
        if watched {
            tracing::info!("a file with credentials or certificates changed; logging in again");
            let for_tls = |file| self.credentials.contains(file);
            if (files == Files::Tls || self.client.connection_files().iter().any(for_tls))
                && let Err(error) = self.client.reload_connections().await
            {
                tracing::error!("{error}; the old connections stay in use");
            }
        }
        watched
    }

    async fn fingerprint(&self) -> Result<Fingerprint, KeyServiceError> {
        self.method.fingerprint(&self.client).await
    }

    async fn log_in(&self) -> Result<Token, KeyServiceError> {
        self.request_token(deadline()).await
    }

    async fn renew(&self, token: &Token) -> Renewal {
        let at = Instant::now();
        let request = self.request(Method::POST, "auth/token/renew-self", token.secret.as_ref(), None);
        let answer = self.client.call(&request, deadline()).await;
        let answer = answer.map_err(|error| error.unless_denied("renewing the token"));
        match answer.and_then(|answer| Ok(answer.parse::<LoginAnswer>()?.auth)) {
            Ok(auth) => Renewal::Granted { at, ttl: lease(auth.lease_duration), renewable: auth.renewable },
            Err(CallError::Refused(_)) => Renewal::Refused { at },
            Err(CallError::Failed(error)) => Renewal::Failed(error),
        }
    }

    async fn is_valid(&self, token: &Token) -> Result<bool, KeyServiceError> {
        self.lookup(token.secret.as_ref(), deadline()).await.map(|found| found.is_some())
    }
}
