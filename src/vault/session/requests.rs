//! The requests of a session: log in, renew, look up. None is repeated here.
//!
//! Must not decide when one is sent: the step does.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::Method;
use serde::Deserialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::super::answer::CallError;
use super::super::classification::{BareLogins, Class, Judgement, Refusal, login_reason};
use super::super::client::Client;
use super::super::login::{BareLogin, Credentials, LoginMethod};
use super::super::replication::Freshness;
use super::super::token::{Lease, Lookup, Token, lease};
use super::super::transport::Request;
use super::files::WatchedFiles;
use super::since::Since;
use super::state::{Files, Renewal};
use crate::clock::{Deadline, Purpose};
use crate::key_service::KeyServiceError;
use crate::secret::{Fingerprint, Secret};

/// Every token may use this path, unless its policy denies it.
pub(super) const LOOKUP: &str = "auth/token/lookup-self";
/// Time for one login, renewal or lookup.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A login that is denied again this long after the first time was not denied by a lock-out that has ended since.
const SAME_LOCKOUT: Duration = Duration::from_secs(50);

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

fn deadline() -> Deadline {
    Deadline::after(TIMEOUT).of(Purpose::Upkeep)
}

/// The requests to one cluster.
pub(super) struct Requests {
    pub client: Arc<Client>,
    pub method: Box<dyn LoginMethod>,
    namespace: String,
    /// Since when logins are denied.
    denied: Since,
    credentials: WatchedFiles,
    /// The files of the connection that are not credentials, too.
    tls: WatchedFiles,
}

/// What a lookup of a token shows.
pub(super) enum Looked {
    Found(Lookup),
    /// The token is good, and its policies do not allow the lookup.
    NotAllowed,
    /// The server does not accept the token.
    Unknown(Refusal),
}

impl Requests {
    pub(super) fn new(client: Arc<Client>, method: Box<dyn LoginMethod>, namespace: String) -> Self {
        let credentials = WatchedFiles::new(method.files());
        let tls = WatchedFiles::new(
            client.connection_files().into_iter().filter(|file| !credentials.contains(file)),
        );
        Self { client, method, namespace, denied: Since::default(), credentials, tls }
    }

    pub(super) fn request<'a>(
        &'a self,
        method: Method,
        path: &'a str,
        token: Option<&'a Secret>,
        body: Option<&'a Zeroizing<Vec<u8>>>,
    ) -> Request<'a> {
        Request { namespace: &self.namespace, token, body, ..Request::new(method, path) }
    }

    /// Calls `lookup-self`. `None` when the policy of the token denies that. An error, when the server does not accept
    /// the token.
    pub(super) async fn lookup(
        &self,
        token: Option<&Secret>,
        deadline: Deadline,
    ) -> Result<Option<Lookup>, KeyServiceError> {
        match self.look_up(token, deadline).await? {
            Looked::Found(lookup) => Ok(Some(lookup)),
            Looked::NotAllowed => Ok(None),
            Looked::Unknown(refusal) => {
                let refusal = match self.method.logs_in() {
                    true => refusal.of_fresh_token(),
                    false => refusal,
                };
                Err(refusal.of_login("looking up the token", &self.method.remedy()))
            }
        }
    }

    /// Whether the server accepts the token, also where its policy denies a lookup.
    pub(super) async fn accepts(
        &self,
        token: Option<&Secret>,
        deadline: Deadline,
    ) -> Result<bool, KeyServiceError> {
        Ok(!matches!(self.look_up(token, deadline).await?, Looked::Unknown(_)))
    }

    pub(super) async fn look_up(
        &self,
        token: Option<&Secret>,
        deadline: Deadline,
    ) -> Result<Looked, KeyServiceError> {
        let request = self.request(Method::GET, LOOKUP, token, None);
        loop {
            // A standby of OpenBao may show the lease as it was at the login, for good.
            let order = self.client.order_from_active(deadline).await;
            match self.client.call_in(order, Freshness::Active, &request, deadline).await {
                Ok(answer) => return answer.data().map(Looked::Found),
                Err(CallError::Failed(error)) => return Err(error),
                Err(CallError::Refused(refusal)) => {
                    if self.client.is_other_cluster(refusal.address, deadline).await {
                        continue;
                    }
                    return match refusal.may_be_the_token() {
                        true if refusal.is_by_policy() => Ok(Looked::NotAllowed),
                        true => Ok(Looked::Unknown(refusal)),
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
                    self.denied.ended();
                    let LoginAnswer { auth } = answer.parse()?;
                    return Ok(Token {
                        secret: Some(Secret::new(auth.client_token.as_str().to_owned())),
                        generation: 0,
                        born: granted,
                        lease: Lease::new(granted, lease(auth.lease_duration), auth.renewable),
                        num_uses: auth.num_uses,
                    });
                }
                Err(CallError::Failed(error)) => return Err(error),
                Err(CallError::Refused(refusal)) => {
                    if self.client.is_other_cluster(refusal.address, deadline).await {
                        continue;
                    }
                    let what = format!("login by {} at {path}", self.method.name());
                    let refusal = self.explained(refusal, deadline).await;
                    let remedy = match refusal.class() {
                        Class::LoginDenied => self.method.denied_remedy(),
                        _ => self.method.remedy(),
                    };
                    return Err(refusal.of_login(&what, &remedy));
                }
            }
        }
    }

    /// The refusal of a login with its reason. Where the server does not say it, logins without a secret show it.
    async fn explained(&self, refusal: Refusal, deadline: Deadline) -> Refusal {
        let mut again = false;
        if refusal.is_denied_login() {
            again = self.denied.seen() >= SAME_LOCKOUT;
        } else {
            self.denied.ended();
            if refusal.class() != Class::CredentialsRefused {
                return refusal;
            }
        }
        let mut bare = BareLogins::default();
        if let Some(requests) = self.method.bare_requests(&self.client).await {
            if refusal.is_denied_login() {
                bare.nameless = self.ask_bare(refusal.address, &requests.nameless, deadline).await;
            }
            if let Some(secretless) = &requests.secretless {
                bare.secretless = self.ask_bare(refusal.address, secretless, deadline).await;
            }
        }
        let cause = login_reason(&refusal, &bare, self.method.locks(), again);
        refusal.because(cause, None)
    }

    /// Asks for the login without its secret, at the first address that answers. `None` when the method has no such
    /// question. An error is one that a login would get.
    pub(super) async fn ask_for_login(&self, deadline: Deadline) -> Option<Result<(), KeyServiceError>> {
        let requests = self.method.bare_requests(&self.client).await?;
        let (path, body) = requests.secretless?;
        let request = self.request(Method::POST, &path, None, Some(&body));
        Some(match self.client.call(&request, deadline).await {
            Ok(answer) => {
                // The role wants no secret: that was a login. Its token is of no use.
                if let Ok(LoginAnswer { auth }) = answer.parse() {
                    let secret = Secret::new(auth.client_token.as_str().to_owned());
                    self.revoke(&secret, deadline).await;
                }
                Ok(())
            }
            Err(CallError::Failed(error)) => Err(error),
            Err(CallError::Refused(refusal)) if refusal.lacks_secret() => Ok(()),
            Err(CallError::Refused(refusal)) => {
                let what = format!("login by {} at {path}, without the secret", self.method.name());
                Err(self.explained(refusal, deadline).await.of_login(&what, &self.method.remedy()))
            }
        })
    }

    /// Revokes a token of a login. Where the policy denies that, it stays valid until it expires.
    pub(super) async fn revoke(&self, secret: &Secret, deadline: Deadline) {
        let request = self.request(Method::POST, "auth/token/revoke-self", Some(secret), None);
        let _refused = self.client.call(&request, deadline).await;
    }

    async fn ask_bare(
        &self,
        address: usize,
        (path, body): &BareLogin,
        deadline: Deadline,
    ) -> Option<Judgement> {
        let request = self.request(Method::POST, path, None, Some(body));
        let answer = self.client.send(self.client.addresses.get(address)?, &request, deadline).await;
        answer.ok().map(|(_, judgement)| judgement)
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
            Err(CallError::Refused(refusal)) if refusal.class() == Class::TokenDead => Renewal::Dead,
            Err(CallError::Refused(_)) => Renewal::Refused { at },
            Err(CallError::Failed(error)) => Renewal::Failed(error),
        }
    }

    async fn is_valid(&self, token: &Token) -> Result<bool, KeyServiceError> {
        self.accepts(token.secret.as_ref(), deadline()).await
    }
}
