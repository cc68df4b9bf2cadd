//! Transit: describe the key, wrap, unwrap. Each usually sends one request. A 403 or a failover causes more.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::answer::{CallError, Data};
use super::attempts::MIN_SHARE;
use super::budget::Budget;
use super::changes::ChangeReceiver;
use super::classification::not_vault;
use super::client::Client;
use super::cluster::CHECK_TIMEOUT;
use super::explanation::Explanations;
use super::key::KeyData;
use super::login;
use super::pem::TlsError;
use super::session::Session;
use super::token::Token;
use super::transit_call::{Action, Call};
use super::transport::Transport;
use crate::clock::{Deadline, Purpose};
use crate::config::vault::Vault;
use crate::key_service::{
    AddressState, ErrorKind, KeyDescription, KeyScope, KeyService, KeyServiceError, KeyWarning, TokenState,
};
use crate::secret::JsonText;
use crate::telemetry::metrics::Metrics;

/// How a Transit ciphertext begins.
const PREFIX: &str = "vault:v";

/// A Transit key in Vault or OpenBao.
pub(crate) struct TransitService {
    pub(super) client: Arc<Client>,
    pub(super) session: Arc<Session>,
    changes: ChangeReceiver,
    pub(super) explanations: Explanations,
    pub(super) vault: Vault,
    /// Whether the session belongs to another key service, which maintains it.
    shares_session: bool,
    pub(super) scope: KeyScope,
    encrypt: String,
    decrypt: String,
    keys: String,
}

#[derive(Deserialize)]
struct Encrypted<'a> {
    #[serde(borrow)]
    ciphertext: JsonText<'a>,
}

#[derive(Serialize)]
struct CiphertextBody<'a> {
    ciphertext: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    associated_data: Option<String>,
}

#[derive(Deserialize)]
struct Decrypted<'a> {
    #[serde(borrow)]
    plaintext: JsonText<'a>,
}

impl TransitService {
    /// The key service of `vault`, whose requests `transport` sends. Reads the TLS files, and sends nothing yet.
    ///
    /// # Errors
    /// When the CA file, the client certificate or its key cannot be used.
    pub(crate) fn new(
        vault: &Vault,
        metrics: Metrics,
        transport: Arc<dyn Transport>,
        budget: Budget,
    ) -> Result<Self, TlsError> {
        let client = Arc::new(Client::new(vault, metrics, transport, budget)?);
        let session = Session::new(
            client.clone(),
            login::method(vault),
            vault.auth_namespace.clone(),
            vault.login_scope(),
        );
        Ok(Self::with(vault, client, Arc::new(session), false))
    }

    /// Another key of the same cluster, with the connections and the token of `self`. One login for both: a wrong
    /// secret-id is sent once, and a wrapped secret-id is unwrapped once.
    pub(crate) fn beside(&self, vault: &Vault) -> Self {
        Self::with(vault, self.client.clone(), self.session.clone(), true)
    }

    fn with(vault: &Vault, client: Arc<Client>, session: Arc<Session>, shares_session: bool) -> Self {
        let (mount, key) = (&vault.transit.mount, &vault.transit.key);
        client.use_namespaces_of(vault);
        Self {
            changes: client.changes.subscribe(),
            explanations: Explanations::default(),
            vault: vault.clone(),
            client,
            session,
            shares_session,
            scope: KeyScope { namespace: vault.namespace.clone(), mount: mount.clone(), key: key.clone() },
            encrypt: format!("{mount}/encrypt/{key}"),
            decrypt: format!("{mount}/decrypt/{key}"),
            keys: format!("{mount}/keys/{key}"),
        }
    }

    /// Wraps and unwraps with `version`, at one address only. Without a `version`, reads the key there.
    async fn try_address(
        &self,
        index: usize,
        version: Option<u32>,
        token: &Token,
        deadline: Deadline,
    ) -> Result<(), CallError> {
        let action = Action::Using(&self.scope);
        let Some(version) = version else {
            let read = Call { action, method: Method::GET, path: &self.keys, body: None };
            return self.active(index, &read, token, deadline).await.map(drop);
        };
        let body = Self::plaintext_body(version, &[0; 32], &[]);
        let wrap = Call { action, method: Method::POST, path: &self.encrypt, body: Some(&body) };
        let wrapped = self.active(index, &wrap, token, deadline).await?;
        let wrapped = wrapped.parse::<Data<Encrypted<'_>>>()?.data.ciphertext;
        let body = Self::ciphertext_body(wrapped.expose(), &[]);
        let unwrap = Call { action, method: Method::POST, path: &self.decrypt, body: Some(&body) };
        // What the wrap took, or waited for its turn, is no fault of the unwrap.
        self.active(index, &unwrap, token, deadline.at_least(MIN_SHARE)).await.map(drop)
    }

    fn ciphertext_body(ciphertext: &str, aad: &[u8]) -> Zeroizing<Vec<u8>> {
        let associated_data = (!aad.is_empty()).then(|| STANDARD.encode(aad));
        let mut body = Vec::with_capacity(ciphertext.len() + aad.len() * 2 + 64);
        // Writing into a Vec never fails.
        let _written = serde_json::to_writer(&mut body, &CiphertextBody { ciphertext, associated_data });
        Zeroizing::new(body)
    }

    fn plaintext_body(version: u32, plaintext: &[u8], aad: &[u8]) -> Zeroizing<Vec<u8>> {
        // Written into one allocation: a JSON value would leave copies of the plaintext in memory.
        let encoded = Zeroizing::new(STANDARD.encode(plaintext));
        let mut body = Zeroizing::new(Vec::with_capacity(encoded.len() + 512));
        body.extend_from_slice(b"{\"plaintext\":\"");
        body.extend_from_slice(encoded.as_bytes());
        let aad = match aad {
            [] => String::new(),
            aad => format!(",\"associated_data\":\"{}\"", STANDARD.encode(aad)),
        };
        body.extend_from_slice(format!("\",\"key_version\":{version}{aad}}}").as_bytes());
        body
    }
}

#[async_trait]
impl KeyService for TransitService {
    fn scope(&self) -> &KeyScope {
        &self.scope
    }

    async fn reachable(&self, deadline: Deadline) -> Result<(), KeyServiceError> {
        let answered = self.client.reachable(deadline).await;
        self.session.health_answered(answered.is_ok());
        answered
    }

    fn expect_cluster(&self, id: Option<String>) {
        self.client.expect_cluster(id);
    }

    async fn describe(&self, at_least: u32, deadline: Deadline) -> Result<KeyDescription, KeyServiceError> {
        let action = Action::Reading(&self.scope);
        let call = Call { action, method: Method::GET, path: &self.keys, body: None };
        let order = self.client.order_from_active(deadline).await;
        let answer = self.call(&call, order, deadline).await?;
        let mut description = answer.data::<KeyData>()?.describe(&self.keys);
        description.cluster_id = self.client.learn_cluster(answer.address, deadline).await;
        if description.latest < at_least {
            let token = self.session.token(deadline).await?;
            for (index, share) in self.client.shares(deadline).filter(|(index, _)| *index != answer.address) {
                if let Ok(other) = self.active(index, &call, &token, share()).await
                    && let Ok(other) = other.data::<KeyData>().map(|data| data.describe(&self.keys))
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
        aad: &[u8],
        deadline: Deadline,
    ) -> Result<Vec<u8>, KeyServiceError> {
        let body = Self::plaintext_body(version, plaintext, aad);
        let action = Action::Wrapping(&self.scope, version);
        let call = Call { action, method: Method::POST, path: &self.encrypt, body: Some(&body) };
        let answer = self.call(&call, self.client.order(), deadline).await?;
        let escaped;
        let ciphertext = match answer.value() {
            Some(found) => found,
            None => {
                escaped = answer.parse::<Data<Encrypted<'_>>>()?.data.ciphertext;
                escaped.expose()
            }
        };
        if self.ciphertext_version(ciphertext.as_bytes()) != Some(version) {
            return Err(KeyServiceError::new(
                ErrorKind::Internal,
                format!("{action}: the server answered with a ciphertext of another version"),
                "report this with the server's version; nothing was stored",
            ));
        }
        Ok(ciphertext.as_bytes().to_vec())
    }

    async fn unwrap(
        &self,
        ciphertext: &[u8],
        aad: &[u8],
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
        let body = Self::ciphertext_body(text, aad);
        let action = Action::Unwrapping(&self.scope);
        let call = Call { action, method: Method::POST, path: &self.decrypt, body: Some(&body) };
        let answer = self.call(&call, self.client.order(), deadline).await?;
        let escaped;
        let plaintext = match answer.value() {
            Some(found) => found,
            None => {
                escaped = answer.parse::<Data<Decrypted<'_>>>()?.data.plaintext;
                escaped.expose()
            }
        };
        STANDARD.decode(plaintext.as_bytes()).map(Zeroizing::new).map_err(|_| not_vault("the server"))
    }

    async fn confirm(&self, version: Option<u32>, deadline: Deadline) -> Result<(), KeyServiceError> {
        let deadline = deadline.of(Purpose::Upkeep);
        let token = self.session.fresh(deadline).await?;
        let mut refused = None;
        let mut outage = None;
        for (index, share) in self.client.shares(deadline) {
            // An address that hangs must not delay what another one has confirmed.
            let share = if refused.is_some() { share().share(CHECK_TIMEOUT) } else { share() };
            match self.try_address(index, version, &token, share).await {
                Ok(()) => return Ok(()),
                Err(CallError::Failed(error)) => outage = outage.or(Some(error)),
                Err(CallError::Refused(refusal)) => {
                    let refusal = self.explained(refusal, &token, deadline).await;
                    let error = refusal.of_transit(&format!("using {}", self.scope));
                    let other_cluster = self.client.is_other_cluster(refusal.address, deadline).await;
                    if error.is_outage() {
                        outage = outage.or(Some(error));
                    } else if !other_cluster && self.client.is_trusted(refusal.address) {
                        refused = Some(error);
                    } else {
                        let message = format!(
                            "{} refuses, but it is not certain that it is a server of the key's cluster",
                            refusal.address_name
                        );
                        let remedy = "correct vault.addresses, or use verified TLS";
                        outage =
                            outage.or(Some(KeyServiceError::new(ErrorKind::Unreachable, message, remedy)));
                    }
                }
            }
        }
        Err(refused.or(outage).unwrap_or_else(|| KeyServiceError::deadline("trying every address")))
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

    fn ignored_namespace(&self) -> Option<KeyWarning> {
        self.client.ignored_namespace(&self.vault)
    }

    async fn changed(&self) {
        self.changes.changed().await;
    }

    async fn maintain(&self) {
        if self.shares_session {
            std::future::pending::<()>().await;
        }
        tokio::join!(
            self.session.maintain(),
            self.client.check_failed_addresses(),
            self.client.follow_svid()
        );
    }
}
