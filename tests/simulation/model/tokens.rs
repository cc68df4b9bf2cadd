//! Tokens, the AppRole that makes them, and its lock-out.

use std::time::Duration;

use serde_json::Value;

use super::service::{Flavour, Service, now};
use super::words;

/// Wrong secret-ids until the role is locked, and for how long (the defaults of Vault's user lockout).
const LOCK_AFTER: usize = 5;
const LOCK_FOR: Duration = Duration::from_secs(15 * 60);

pub(in super::super) struct Role {
    pub secret_id: String,
    pub ttl: Duration,
    pub max_ttl: Duration,
    /// When wrong secret-ids were sent.
    pub failures: Vec<Duration>,
    pub logins: u64,
}

#[derive(Clone, Debug)]
pub(in super::super) struct Token {
    pub node: usize,
    made: Duration,
    expires: Duration,
}

impl Role {
    pub(in super::super) fn new(ttl: Duration, max_ttl: Duration) -> Self {
        Self { secret_id: "secret-0".into(), ttl, max_ttl, failures: Vec::new(), logins: 0 }
    }

    pub(in super::super) fn is_locked(&self) -> bool {
        let recent = |at: &&Duration| now() < **at + LOCK_FOR;
        self.failures.iter().filter(recent).count() >= LOCK_AFTER
    }
}

impl Token {
    pub(super) fn is_alive(&self) -> bool {
        now() < self.expires
    }
}

impl Service {
    /// Revokes every token.
    pub(in super::super) fn revoke_tokens(&mut self) {
        self.tokens.clear();
    }

    /// Forgets the tokens of an agent that has ended: it cannot use them any more.
    pub(in super::super) fn forget_tokens(&mut self, node: usize) {
        self.tokens.retain(|_, token| token.node != node);
    }

    /// Whether a token is alive.
    pub(super) fn knows(&self, token: Option<&str>) -> bool {
        token.and_then(|token| self.tokens.get(token)).is_some_and(Token::is_alive)
    }

    /// The answer to a request with a dead token.
    pub(super) fn dead_token(&self) -> (u16, &'static str) {
        match self.flavour {
            Flavour::Vault => (403, words::TOKEN_DEAD_VAULT),
            Flavour::OpenBao => (403, words::DENIED),
        }
    }

    pub(super) fn log_in(
        &mut self,
        node: usize,
        body: &Value,
        locked: bool,
    ) -> Result<Value, (u16, &'static str)> {
        // A login that names nobody, or has no secret, is not counted as a wrong one.
        if body["role_id"].is_null() {
            return Err((500, words::MISSING_ROLE_ID));
        }
        if locked || self.role.is_locked() {
            return Err((403, words::DENIED));
        }
        if body["secret_id"].is_null() {
            return Err((400, words::MISSING_SECRET_ID));
        }
        if body["secret_id"].as_str() != Some(&self.role.secret_id) {
            self.role.failures.push(now());
            return Err((400, words::WRONG_SECRET_ID));
        }
        self.role.failures.clear();
        self.role.logins += 1;
        let name = format!("hvs.{}", self.role.logins);
        let token = Token { node, made: now(), expires: now() + self.role.ttl };
        self.tokens.insert(name.clone(), token);
        Ok(words::auth(&name, self.role.ttl.as_secs()))
    }

    /// Renews a token for the role's TTL, and not beyond its longest lifetime.
    pub(super) fn renew(&mut self, name: &str) -> Value {
        let (ttl, max_ttl) = (self.role.ttl, self.role.max_ttl);
        let Some(token) = self.tokens.get_mut(name) else { return Value::Null };
        let left = (token.made + max_ttl).saturating_sub(now());
        token.expires = now() + ttl.min(left);
        words::auth(name, ttl.min(left).as_secs())
    }

    /// `data` of `lookup-self`.
    pub(super) fn look_up(&self, name: &str) -> Value {
        let left = self.tokens.get(name).map_or(0, |token| token.expires.saturating_sub(now()).as_secs());
        serde_json::json!({ "ttl": left, "renewable": true, "num_uses": 0, "policies": ["kms"],
            "explicit_max_ttl": 0, "period": 0, "creation_time": 0 })
    }
}
