//! Transit: describe the key, wrap, unwrap. One request each, and what a 403 or a failover adds.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::address::Address;
use super::client::{Answer, CallError, Client, Request, not_vault};
use super::error::Refusal;
use super::login;
use super::session::Session;
use super::tls::TlsError;
use super::token::Token;
use crate::backend::{
    AddressState, Backend, BackendError, ErrorKind, KeyDescription, KeyScope, KeyVersions, TokenState,
};
use crate::clock::{Deadline, unix_seconds};
use crate::config::vault::Vault;

/// Key types that authenticate what they encrypt. Others could give a wrong byte without an error.
const AEAD_TYPES: [&str; 4] = ["aes256-gcm96", "aes128-gcm96", "chacha20-poly1305", "xchacha20-poly1305"];
/// Age of the newest version from which a rotation is advised.
const ROTATION_ADVISED: i64 = 90 * 86_400;
/// How a Transit ciphertext begins.
const PREFIX: &str = "vault:v";
/// How long one address may take when each is asked whether it refuses.
const CONFIRM_SHARE: Duration = Duration::from_secs(3);

/// A Transit key in Vault or OpenBao.
pub struct TransitBackend {
    client: Arc<Client>,
    session: Session,
    scope: KeyScope,
    encrypt: String,
    decrypt: String,
    keys: String,
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize)]
struct KeyData {
    #[serde(rename = "type")]
    key_type: String,
    latest_version: u32,
    #[serde(default)]
    min_decryption_version: u32,
    #[serde(default)]
    min_encryption_version: u32,
    #[serde(default)]
    supports_encryption: bool,
    #[serde(default)]
    derived: bool,
    #[serde(default)]
    exportable: bool,
    #[serde(default)]
    deletion_allowed: bool,
    #[serde(default)]
    allow_plaintext_backup: bool,
    #[serde(default)]
    soft_deleted: bool,
    #[serde(default)]
    keys: std::collections::BTreeMap<String, serde_json::Value>,
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

impl TransitBackend {
    /// A backend for `vault`. Reads the TLS files; sends nothing yet.
    ///
    /// # Errors
    /// When the CA file, the client certificate or its key cannot be used.
    pub fn new(vault: &Vault) -> Result<Self, TlsError> {
        let client = Arc::new(Client::new(Address::list(vault)?));
        let session = Session::new(client.clone(), login::method(vault), vault.auth_namespace.clone());
        let (mount, key) = (&vault.transit.mount, &vault.transit.key);
        Ok(Self {
            client,
            session,
            scope: KeyScope { namespace: vault.namespace.clone(), mount: mount.clone(), key: key.clone() },
            encrypt: format!("{mount}/encrypt/{key}"),
            decrypt: format!("{mount}/decrypt/{key}"),
            keys: format!("{mount}/keys/{key}"),
        })
    }

    fn request<'a>(
        &'a self,
        method: Method,
        path: &'a str,
        token: &'a Token,
        body: Option<&'a Zeroizing<Vec<u8>>>,
    ) -> Request<'a> {
        Request {
            method,
            path,
            namespace: &self.scope.namespace,
            token: Some(&token.secret),
            index: token.index.as_deref(),
            body,
        }
    }

    /// Calls with a good token: after a 403 finds out whether the token died, and then tries once more.
    async fn call(
        &self,
        what: &str,
        method: Method,
        path: &str,
        body: Option<&Zeroizing<Vec<u8>>>,
        deadline: Deadline,
    ) -> Result<Answer, BackendError> {
        let mut token = self.session.token(deadline).await?;
        let mut logged_in = false;
        // Each turn either returns, leaves an address out, or uses up the one login.
        loop {
            let refusal =
                match self.client.call(&self.request(method.clone(), path, &token, body), deadline).await {
                    Ok(answer) => return Ok(answer),
                    Err(CallError::Failed(error)) => return Err(error),
                    Err(CallError::Refused(refusal)) => refusal,
                };
            if refusal.status != 403 {
                return self.elsewhere(refusal, what, method, path, &token, body, deadline).await;
            }
            if self.client.is_foreign(refusal.address, deadline).await {
                continue;
            }
            if logged_in {
                return Err(refusal.of_transit(what, path));
            }
            match self.session.after_refusal(&token, deadline).await? {
                Some(newer) => token = newer,
                None => return Err(refusal.of_transit(what, path)),
            }
            logged_in = true;
        }
    }

    /// A replica that has not seen the newest version yet refuses it: the other addresses are asked.
    #[allow(clippy::too_many_arguments)] // the call's own arguments, once more
    async fn elsewhere(
        &self,
        refusal: Refusal,
        what: &str,
        method: Method,
        path: &str,
        token: &Token,
        body: Option<&Zeroizing<Vec<u8>>>,
        deadline: Deadline,
    ) -> Result<Answer, BackendError> {
        let error = refusal.of_transit(what, path);
        if error.kind() != ErrorKind::VersionAhead {
            return Err(error);
        }
        for index in self.client.order().into_iter().filter(|index| *index != refusal.address) {
            let request = self.request(method.clone(), path, token, body);
            if let Ok(answer) = self.client.once(index, &request, deadline).await {
                return Ok(answer);
            }
        }
        Err(error)
    }

    fn describe_answer(&self, answer: &Answer) -> Result<KeyDescription, BackendError> {
        let Data { data }: Data<KeyData> =
            serde_json::from_slice(&answer.body).map_err(|_| not_vault("the server"))?;
        data.usable(&self.keys)?;
        let mut versions = KeyVersions::new();
        for (version, created) in &data.keys {
            if let (Ok(version), Some(created)) = (version.parse::<u32>(), created.as_i64()) {
                versions.insert(version, created);
            }
        }
        if !versions.contains_key(&data.latest_version) {
            return Err(BackendError::new(
                ErrorKind::KeyUnusable,
                format!("{} does not show when its version {} was made", self.keys, data.latest_version),
                "use a symmetric Transit key made by Vault or OpenBao itself",
            ));
        }
        Ok(KeyDescription {
            latest: data.latest_version,
            min_encryption: data.min_encryption_version,
            min_decryption: data.min_decryption_version,
            warnings: data.warnings(&versions),
            versions,
            cluster_id: None,
        })
    }

    fn plaintext_body(version: u32, plaintext: &[u8]) -> Zeroizing<Vec<u8>> {
        // Written by hand into one allocation: a JSON value would keep copies of the plaintext.
        let encoded = Zeroizing::new(STANDARD.encode(plaintext));
        let mut body = Zeroizing::new(Vec::with_capacity(encoded.len() + 64));
        body.extend_from_slice(b"{\"plaintext\":\"");
        body.extend_from_slice(encoded.as_bytes());
        body.extend_from_slice(format!("\",\"key_version\":{version}}}").as_bytes());
        body
    }
}

impl KeyData {
    /// What rules a key out. A key that only needs a change gets a warning instead.
    fn usable(&self, path: &str) -> Result<(), BackendError> {
        let unusable = |message: String, remedy: &'static str| {
            Err(BackendError::new(ErrorKind::KeyUnusable, message, remedy))
        };
        let aead = "make a key of type aes256-gcm96 (vault write -f transit/keys/NAME type=aes256-gcm96)";
        if self.soft_deleted {
            return unusable(format!("{path} is soft-deleted"), "restore it: it can be undone");
        }
        if !self.supports_encryption {
            return unusable(format!("{path} has type {}, which cannot encrypt", self.key_type), aead);
        }
        if !AEAD_TYPES.contains(&self.key_type.as_str()) {
            return unusable(
                format!("{path} has type {}, which does not authenticate what it encrypts", self.key_type),
                aead,
            );
        }
        if self.derived {
            return unusable(format!("{path} is derived: it needs a context with every call"), aead);
        }
        Ok(())
    }

    fn warnings(&self, versions: &KeyVersions) -> Vec<String> {
        let age = versions.get(&self.latest_version).map_or(0, |created| unix_seconds() - created);
        let days = age / 86_400;
        [
            (self.exportable, "the key is exportable: whoever may export it takes it out of the key service for ever".to_owned()),
            (self.deletion_allowed, "the key may be deleted (deletion_allowed): a deleted key loses every Secret; set it to false".to_owned()),
            (self.allow_plaintext_backup, "the key allows a plaintext backup: whoever may make one has the key".to_owned()),
            (self.key_type != "aes256-gcm96", format!("the key has type {}; aes256-gcm96 is the usual one", self.key_type)),
            (age > ROTATION_ADVISED, format!("the key's newest version is {days} days old; rotate it (vault write -f transit/keys/NAME/rotate)")),
        ]
        .into_iter()
        .filter_map(|(applies, text)| applies.then_some(text))
        .collect()
    }
}

#[async_trait]
impl Backend for TransitBackend {
    fn scope(&self) -> &KeyScope {
        &self.scope
    }

    async fn reachable(&self, deadline: Deadline) -> Result<(), BackendError> {
        self.client.reachable(deadline).await
    }

    async fn describe(&self, at_least: u32, deadline: Deadline) -> Result<KeyDescription, BackendError> {
        let what = format!("reading {}", self.scope);
        let answer = self.call(&what, Method::GET, &self.keys, None, deadline).await?;
        let mut description = self.describe_answer(&answer)?;
        description.cluster_id = self.client.learn_cluster(answer.address, deadline).await;
        if description.latest < at_least {
            let token = self.session.token(deadline).await?;
            for index in self.client.order().into_iter().filter(|index| *index != answer.address) {
                let request = self.request(Method::GET, &self.keys, &token, None);
                if let Ok(other) = self.client.once(index, &request, deadline).await
                    && let Ok(other) = self.describe_answer(&other)
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
        deadline: Deadline,
    ) -> Result<Vec<u8>, BackendError> {
        let body = Self::plaintext_body(version, plaintext);
        let what = format!("wrapping with {} version {version}", self.scope);
        let answer = self.call(&what, Method::POST, &self.encrypt, Some(&body), deadline).await?;
        let Data { data }: Data<Encrypted<'_>> =
            serde_json::from_slice(&answer.body).map_err(|_| not_vault("the server"))?;
        if self.ciphertext_version(data.ciphertext.as_bytes()) != Some(version) {
            return Err(BackendError::new(
                ErrorKind::Internal,
                format!("{what}: the server answered with a ciphertext of another version"),
                "report this with the server's version; nothing was stored",
            ));
        }
        Ok(data.ciphertext.into_owned().into_bytes())
    }

    async fn unwrap(
        &self,
        ciphertext: &[u8],
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, BackendError> {
        let foreign = || {
            BackendError::new(
                ErrorKind::BadCiphertext,
                "the ciphertext is not in Transit's form (vault:vN:…)",
                "the data was written by another provider, or is damaged",
            )
        };
        let text = std::str::from_utf8(ciphertext).map_err(|_| foreign())?;
        self.ciphertext_version(ciphertext).ok_or_else(foreign)?;
        let body = Zeroizing::new(serde_json::json!({ "ciphertext": text }).to_string().into_bytes());
        let what = format!("unwrapping with {}", self.scope);
        let answer = self.call(&what, Method::POST, &self.decrypt, Some(&body), deadline).await?;
        let Data { data }: Data<Decrypted<'_>> =
            serde_json::from_slice(&answer.body).map_err(|_| not_vault("the server"))?;
        STANDARD.decode(data.plaintext.as_bytes()).map(Zeroizing::new).map_err(|_| not_vault("the server"))
    }

    async fn confirm(&self, version: Option<u32>, deadline: Deadline) -> Result<(), BackendError> {
        let token = self.session.token(deadline).await?;
        let (what, method, path, body) = match version {
            Some(version) => {
                let what = format!("wrapping with {} version {version}", self.scope);
                (what, Method::POST, &self.encrypt, Some(Self::plaintext_body(version, &[0; 32])))
            }
            None => (format!("reading {}", self.scope), Method::GET, &self.keys, None),
        };
        let mut refused = None;
        let mut away = None;
        for index in self.client.order() {
            let request = self.request(method.clone(), path, &token, body.as_ref());
            match self.client.once(index, &request, deadline.at_most(CONFIRM_SHARE)).await {
                Ok(_) => return Ok(()),
                Err(CallError::Failed(error)) => away = away.or(Some(error)),
                Err(CallError::Refused(refusal)) => {
                    let foreign = self.client.is_foreign(refusal.address, deadline).await;
                    if !foreign && self.client.is_trusted(refusal.address) {
                        refused = Some(refusal.of_transit(&what, path));
                    } else {
                        let message = format!("{} refuses, and may not be our server", refusal.address_name);
                        away = away.or(Some(BackendError::new(
                            ErrorKind::Unreachable,
                            message,
                            "correct vault.addresses, or use verified TLS",
                        )));
                    }
                }
            }
        }
        match refused.or(away) {
            Some(error) => Err(error),
            None => Err(BackendError::deadline("asking every address")),
        }
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
        self.session.maintain().await;
    }
}
