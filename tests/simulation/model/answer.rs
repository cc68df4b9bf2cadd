//! What a replica answers to a request.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::effect::Effect;
use super::key::{Key, Refused};
use super::service::{Flavour, KEY, OLD_KEY, Service, now, server_time};
use super::words;

/// After this time without an active replica, a standby answers `sys/health` with 474.
const CONNECTION_LOST: Duration = Duration::from_secs(5);

/// A request, as a server sees it.
pub(super) struct Asked<'a> {
    pub node: usize,
    pub path: &'a str,
    pub token: Option<&'a str>,
    pub body: Value,
}

/// An answer of any status.
pub(super) struct Answer {
    pub status: u16,
    pub body: String,
    pub location: Option<usize>,
    pub retry_after: Option<u64>,
    pub audited: bool,
}

impl Answer {
    fn of(status: u16, body: &Value) -> Self {
        Self { status, body: body.to_string(), location: None, retry_after: None, audited: true }
    }

    fn error(status: u16, text: &str) -> Self {
        let errors = if text.is_empty() { json!([]) } else { json!([text]) };
        Self::of(status, &json!({ "errors": errors }))
    }

    pub(super) fn page(status: u16) -> Self {
        Self { body: words::PAGE.into(), audited: false, ..Self::of(status, &Value::Null) }
    }

    fn unaudited(self) -> Self {
        Self { audited: false, ..self }
    }
}

impl Service {
    pub(super) fn answer(&mut self, replica: usize, asked: &Asked<'_>) -> Answer {
        if asked.path.starts_with("sys/health") {
            return self.health(replica).unaudited();
        }
        if self.is_sealed(replica) {
            return Answer::error(503, words::SEALED).unaudited();
        }
        if self.is_disaster(replica) {
            return Answer::error(400, words::DISASTER).unaudited();
        }
        if self.no_leader().is_some() {
            // The standby still knows the address of the replica that was active.
            let location = Some((self.active + 2) % 3);
            return Answer { location, body: String::new(), ..Answer::of(307, &Value::Null).unaudited() };
        }
        let throttled = self.effects.iter().find_map(|(_, effect)| match effect {
            Effect::Throttled(retry_after) => Some(*retry_after),
            _ => None,
        });
        if let Some(retry_after) = throttled {
            return Answer { retry_after, ..Answer::error(429, &words::quota(asked.path)).unaudited() };
        }
        if self.has(|effect| matches!(effect, Effect::Broken)) {
            return Answer::error(500, words::INTERNAL);
        }
        match self.route(replica, asked) {
            Ok(body) => Answer::of(200, &body),
            Err((status, text)) => Answer::error(status, text),
        }
    }

    fn health(&self, replica: usize) -> Answer {
        let connected = self.no_leader().is_none_or(|since| now() < since + CONNECTION_LOST);
        let standby = replica != self.active || self.no_leader().is_some();
        let sealed = self.is_sealed(replica);
        let status = match () {
            () if self.is_disaster(replica) => 472,
            () if self.is_removed(replica) => 530,
            () if standby && !sealed && !connected && self.flavour == Flavour::Vault => 474,
            () => 200,
        };
        let mut body = words::health(sealed, standby || sealed, connected, server_time(), &self.cluster_id);
        if status == 530 {
            body["removed_from_cluster"] = true.into();
        }
        Answer::of(status, &body)
    }

    fn route(&mut self, replica: usize, asked: &Asked<'_>) -> Result<Value, Refused> {
        let (encrypt, decrypt, read) = self.rights();
        if asked.path == "auth/approle/login" {
            let locked = self.has(|effect| matches!(effect, Effect::RoleLocked));
            return self.log_in(asked.node, &asked.body, locked);
        }
        if !self.knows(asked.token) {
            return Err(self.dead_token());
        }
        let token = asked.token.unwrap_or_default();
        let denied = Err((403, words::RIGHT_MISSING));
        match asked.path {
            "auth/token/lookup-self" => return Ok(words::data(self.look_up(token))),
            "auth/token/renew-self" => return Ok(self.renew(token)),
            "sys/internal/ui/mounts" => {
                return Ok(words::data(json!({ "secret": { "transit/": { "type": "transit" } } })));
            }
            _ => {}
        }
        let Some((action, name)) = asked.path.strip_prefix("transit/").and_then(|path| path.split_once('/'))
        else {
            return denied;
        };
        let key = match name {
            KEY => self.key_at(replica),
            OLD_KEY => Some(self.old_key.clone()),
            _ => None,
        };
        let usable = |key: Option<Key>| {
            key.ok_or((400, words::NO_KEY)).and_then(|key| match key.soft_deleted {
                true => Err((400, "key is soft-deleted")),
                false => Ok(key),
            })
        };
        let text = |field: &str| asked.body[field].as_str().unwrap_or_default().to_owned();
        let aad = STANDARD.decode(text("associated_data")).unwrap_or_default();
        match action {
            "keys" if !read => denied,
            "keys" => key.map(|key| words::data(key.metadata(name))).ok_or((404, "")),
            "encrypt" if encrypt && key.is_some() && asked.body["plaintext"].is_null() => {
                Err((400, words::MISSING_PLAINTEXT))
            }
            "encrypt" if !encrypt || (key.is_none() && !self.may_create) => denied,
            "encrypt" => {
                // A standby leaves the creation of a key to the active replica, which may have one.
                let key = match key.or_else(|| self.key_now()) {
                    Some(key) => usable(Some(key))?,
                    None => self.create(asked.node),
                };
                let version = u32::try_from(asked.body["key_version"].as_u64().unwrap_or_default()).unwrap();
                let plaintext = STANDARD.decode(text("plaintext")).unwrap_or_default();
                let ciphertext = key.encrypt(version, &plaintext, &aad)?;
                Ok(words::data(json!({ "ciphertext": ciphertext, "key_version": key.latest() })))
            }
            "decrypt" if !decrypt => denied,
            "decrypt" => {
                let plaintext = usable(key)?.decrypt(&text("ciphertext"), &aad)?;
                Ok(words::data(json!({ "plaintext": STANDARD.encode(plaintext) })))
            }
            _ => denied,
        }
    }

    /// An encryption under a missing key creates the key, where the policy grants `create`.
    fn create(&mut self, node: usize) -> Key {
        self.restore_created();
        let key = Key::new(self.make_version());
        self.effects.retain(|(_, effect)| !matches!(effect, Effect::KeyDeleted));
        let effect = self.start(Effect::Replaced(key.clone()));
        self.created_by = Some((node, effect));
        key
    }
}
