//! Transit: describe the key, wrap, unwrap. One request each, and what a 403 or a failover adds.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::client::{Answer, CallError, Client, Data};
use super::error::{Refusal, not_vault};
use super::key::KeyData;
use super::login;
use super::session::Session;
use super::tls::TlsError;
use super::token::Token;
use super::transport::Request;
use crate::clock::Deadline;
use crate::config::vault::Vault;
use crate::key_service::{
    AddressState, ErrorKind, KeyDescription, KeyScope, KeyService, KeyServiceError, TokenState,
};
use crate::telemetry::metrics::Metrics;

/// How a Transit ciphertext begins.
const PREFIX: &str = "vault:v";
/// A Transit key in Vault or OpenBao.
pub(crate) struct TransitService {
    pub(super) client: Arc<Client>,
    pub(super) session: Arc<Session>,
    /// Whether the session is another key_service's, which looks after it.
    shares_session: bool,
    scope: KeyScope,
    encrypt: String,
    decrypt: String,
    keys: String,
}

/// One thing that is asked of Transit.
struct Ask<'a> {
    /// For errors: what is tried, with what.
    what: &'a str,
    method: Method,
    path: &'a str,
    body: Option<&'a Zeroizing<Vec<u8>>>,
}

impl Ask<'_> {
    fn refused(&self, refusal: &Refusal) -> KeyServiceError {
        refusal.of_transit(self.what)
    }
}

#[derive(Deserialize)]
struct Encrypted<'a> {
    #[serde(borrow)]
    ciphertext: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Decrypted<'a> {
    #[serde(borrow)]
    plaintext: Cow<'a, str>,
}

impl TransitService {
    /// A key_service for `vault`. Reads the TLS files; sends nothing yet.
    ///
    /// # Errors
    /// When the CA file, the client certificate or its key cannot be used.
    pub(crate) fn new(vault: &Vault, metrics: Metrics) -> Result<Self, TlsError> {
        let client = Arc::new(Client::new(vault, metrics)?);
        let session = Session::new(
            client.clone(),
            login::method(vault),
            vault.auth_namespace.clone(),
            vault.login_scope(),
        );
        Ok(Self::with(vault, client, Arc::new(session), false))
    }

    /// Another key of the same cluster, with the connections and the token of `self`: one login for both,
    /// so that a wrong secret-id is sent once, and a wrapped one opened once.
    pub(crate) fn beside(&self, vault: &Vault) -> Self {
        Self::with(vault, self.client.clone(), self.session.clone(), true)
    }

    fn with(vault: &Vault, client: Arc<Client>, session: Arc<Session>, shares_session: bool) -> Self {
        let (mount, key) = (&vault.transit.mount, &vault.transit.key);
        Self {
            client,
            session,
            shares_session,
            scope: KeyScope { namespace: vault.namespace.clone(), mount: mount.clone(), key: key.clone() },
            encrypt: format!("{mount}/encrypt/{key}"),
            decrypt: format!("{mount}/decrypt/{key}"),
            keys: format!("{mount}/keys/{key}"),
        }
    }

    fn request<'a>(&'a self, ask: &Ask<'a>, token: &'a Token) -> Request<'a> {
        Request {
            method: ask.method.clone(),
            path: ask.path,
            namespace: &self.scope.namespace,
            token: Some(&token.secret),
            index: token.index.as_deref(),
            body: ask.body,
        }
    }

    /// Calls with a good token: after a 403 finds out whether the token died, and then tries once more.
    async fn call(&self, ask: &Ask<'_>, deadline: Deadline) -> Result<Answer, KeyServiceError> {
        let mut token = self.session.token(deadline).await?;
        let mut logged_in = false;
        // Each turn either returns, leaves an address out, or uses up the one login.
        loop {
            let refusal = match self.client.call(&self.request(ask, &token), deadline).await {
                Ok(answer) => {
                    self.session.note_use(&token, ask.path);
                    return Ok(answer);
                }
                Err(CallError::Failed(error)) => return Err(error),
                Err(CallError::Refused(refusal)) => refusal,
            };
            if refusal.status != 403 {
                return self.elsewhere(ask, refusal, &token, deadline).await;
            }
            if self.client.is_other_cluster(refusal.address, deadline).await {
                continue;
            }
            match self.session.after_refusal(&token, ask.path, deadline).await? {
                Some(newer) if !logged_in => token = newer,
                _ => return Err(ask.refused(&refusal)),
            }
            logged_in = true;
        }
    }

    /// A replica that has not seen the newest version yet refuses it: the other addresses are asked.
    async fn elsewhere(
        &self,
        ask: &Ask<'_>,
        refusal: Refusal,
        token: &Token,
        deadline: Deadline,
    ) -> Result<Answer, KeyServiceError> {
        let error = ask.refused(&refusal);
        if error.kind() == ErrorKind::VersionAhead {
            for (index, share) in self.client.shares(deadline).filter(|(index, _)| *index != refusal.address)
            {
                if let Ok(answer) = self.client.once(index, &self.request(ask, token), share()).await {
                    return Ok(answer);
                }
            }
        }
        Err(error)
    }

    /// A wrap and an unwrap, or a read, at one address alone.
    async fn try_address(
        &self,
        index: usize,
        version: Option<u32>,
        token: &Token,
        deadline: Deadline,
    ) -> Result<(), CallError> {
        let what = format!("using {}", self.scope);
        let Some(version) = version else {
            let ask = Ask { what: &what, method: Method::GET, path: &self.keys, body: None };
            return self.client.once(index, &self.request(&ask, token), deadline).await.map(drop);
        };
        let body = Self::plaintext_body(version, &[0; 32], &[]);
        let wrap = Ask { what: &what, method: Method::POST, path: &self.encrypt, body: Some(&body) };
        let wrapped = self.client.once(index, &self.request(&wrap, token), deadline).await?;
        let ciphertext = wrapped.parse::<Data<Encrypted<'_>>>()?.data.ciphertext.into_owned();
        let body = Self::ciphertext_body(&ciphertext, &[]);
        let unwrap = Ask { what: &what, method: Method::POST, path: &self.decrypt, body: Some(&body) };
        self.client.once(index, &self.request(&unwrap, token), deadline).await.map(drop)
    }

    fn ciphertext_body(ciphertext: &str, data: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut body = serde_json::json!({ "ciphertext": ciphertext });
        if let (false, Some(fields)) = (data.is_empty(), body.as_object_mut()) {
            fields.insert("associated_data".into(), STANDARD.encode(data).into());
        }
        Zeroizing::new(body.to_string().into_bytes())
    }

    fn plaintext_body(version: u32, plaintext: &[u8], data: &[u8]) -> Zeroizing<Vec<u8>> {
        // Written by hand into one allocation: a JSON value would keep copies of the plaintext.
        let encoded = Zeroizing::new(STANDARD.encode(plaintext));
        let mut body = Zeroizing::new(Vec::with_capacity(encoded.len() + 512));
        body.extend_from_slice(b"{\"plaintext\":\"");
        body.extend_from_slice(encoded.as_bytes());
        let data = match data {
            [] => String::new(),
            data => format!(",\"associated_data\":\"{}\"", STANDARD.encode(data)),
        };
        body.extend_from_slice(format!("\",\"key_version\":{version}{data}}}").as_bytes());
        body
    }
}

#[async_trait]
impl KeyService for TransitService {
    fn scope(&self) -> &KeyScope {
        &self.scope
    }

    async fn reachable(&self, deadline: Deadline) -> Result<(), KeyServiceError> {
        self.client.reachable(deadline).await
    }

    fn expect_cluster(&self, id: Option<String>) {
        self.client.expect_cluster(id);
    }

    async fn describe(&self, at_least: u32, deadline: Deadline) -> Result<KeyDescription, KeyServiceError> {
        let what = format!("reading {}", self.scope);
        let ask = Ask { what: &what, method: Method::GET, path: &self.keys, body: None };
        let answer = self.call(&ask, deadline).await?;
        let mut description = answer.data::<KeyData>()?.describe(&self.keys)?;
        description.cluster_id = self.client.learn_cluster(answer.address, deadline).await;
        if description.latest < at_least {
            let token = self.session.token(deadline).await?;
            for (index, share) in self.client.shares(deadline).filter(|(index, _)| *index != answer.address) {
                if let Ok(other) = self.client.once(index, &self.request(&ask, &token), share()).await
                    && let Ok(other) = other.data::<KeyData>().and_then(|data| data.describe(&self.keys))
                    && other.latest > description.latest
                {
                    description = KeyDescription { cluster_id: description.cluster_id, ..other };
                }
            }
        }
        Ok(description)
    }

    async fn wrap(
        &self,
        version: u32,
        plaintext: &[u8],
        data: &[u8],
        deadline: Deadline,
    ) -> Result<Vec<u8>, KeyServiceError> {
        let body = Self::plaintext_body(version, plaintext, data);
        let what = format!("wrapping with {} version {version}", self.scope);
        let ask = Ask { what: &what, method: Method::POST, path: &self.encrypt, body: Some(&body) };
        let answer = self.call(&ask, deadline).await?;
        let ciphertext = answer.parse::<Data<Encrypted<'_>>>()?.data.ciphertext;
        if self.ciphertext_version(ciphertext.as_bytes()) != Some(version) {
            return Err(KeyServiceError::new(
                ErrorKind::Internal,
                format!("{what}: the server answered with a ciphertext of another version"),
                "report this with the server's version; nothing was stored",
            ));
        }
        Ok(ciphertext.into_owned().into_bytes())
    }

    async fn unwrap(
        &self,
        ciphertext: &[u8],
        data: &[u8],
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, KeyServiceError> {
        let text =
            std::str::from_utf8(ciphertext).ok().filter(|_| self.ciphertext_version(ciphertext).is_some());
        let text = text.ok_or_else(|| {
            KeyServiceError::new(
                ErrorKind::BadCiphertext,
                "the ciphertext is not in Transit's form (vault:vN:…)",
                "the data was written by another provider, or is damaged",
            )
        })?;
        let body = Self::ciphertext_body(text, data);
        let what = format!("unwrapping with {}", self.scope);
        let ask = Ask { what: &what, method: Method::POST, path: &self.decrypt, body: Some(&body) };
        let answer = self.call(&ask, deadline).await?;
        let plaintext = answer.parse::<Data<Decrypted<'_>>>()?.data.plaintext;
        STANDARD.decode(plaintext.as_bytes()).map(Zeroizing::new).map_err(|_| not_vault("the server"))
    }

    async fn confirm(&self, version: Option<u32>, deadline: Deadline) -> Result<(), KeyServiceError> {
        let token = self.session.fresh(deadline).await?;
        let mut refused = None;
        let mut away = None;
        for (index, share) in self.client.shares(deadline) {
            match self.try_address(index, version, &token, share()).await {
                Ok(()) => return Ok(()),
                Err(CallError::Failed(error)) => away = away.or(Some(error)),
                Err(CallError::Refused(refusal)) => {
                    let foreign = self.client.is_other_cluster(refusal.address, deadline).await;
                    if !foreign && self.client.is_trusted(refusal.address) {
                        refused = Some(refusal.of_transit(&format!("using {}", self.scope)));
                    } else {
                        let message = format!("{} refuses, and may not be our server", refusal.address_name);
                        let remedy = "correct vault.addresses, or use verified TLS";
                        away = away.or(Some(KeyServiceError::new(ErrorKind::Unreachable, message, remedy)));
                    }
                }
            }
        }
        Err(refused.or(away).unwrap_or_else(|| KeyServiceError::deadline("asking every address")))
    }

    fn ciphertext_version(&self, ciphertext: &[u8]) -> Option<u32> {
        let text = std::str::from_utf8(ciphertext).ok()?;
        let (version, data) = text.strip_prefix(PREFIX)?.split_once(':')?;
        let plain = !version.starts_with('0') && version.bytes().all(|byte| byte.is_ascii_digit());
        (plain && !data.is_empty()).then(|| version.parse().ok()).flatten()
    }

    fn addresses(&self) -> Vec<AddressState> {
        self.client.states()
    }

    fn token(&self) -> Option<TokenState> {
        Some(self.session.state())
    }

    async fn maintain(&self) {
        if self.shares_session {
            std::future::pending::<()>().await;
        }
        tokio::join!(self.session.maintain(), self.client.look_after_failed());
    }
}
