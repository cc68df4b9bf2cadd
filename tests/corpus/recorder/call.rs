//! The requests that are recorded: those that the agent sends, and those that bring a server into a state.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::vault::KEY;

/// As the agent asks (`HEALTH` in src/vault/cluster.rs).
const HEALTH: &str = "sys/health?standbyok=true&perfstandbyok=true&sealedcode=200&uninitcode=200";
/// 32 bytes, as those of a DEK seed.
pub const PLAINTEXT: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// In Transit's form, and made by no key.
pub const CIPHERTEXT: &str =
    "vault:v1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// One request.
#[derive(Clone)]
pub struct Call {
    /// Which call of the agent it is; empty for an administrator's.
    pub kind: &'static str,
    pub method: Method,
    /// Below `/v1/`, or from the root when it begins with a slash.
    pub path: String,
    pub token: Option<String>,
    pub namespace: String,
    pub headers: Vec<(&'static str, &'static str)>,
    pub body: Option<String>,
}

impl Call {
    pub fn new(method: Method, path: &str) -> Self {
        Self {
            kind: "",
            method,
            path: path.to_owned(),
            token: None,
            namespace: String::new(),
            headers: Vec::new(),
            body: None,
        }
    }

    pub fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    pub fn post(path: &str, body: Value) -> Self {
        Self::new(Method::POST, path).body(&body.to_string())
    }

    pub fn kind(self, kind: &'static str) -> Self {
        Self { kind, ..self }
    }

    pub fn token(self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self }
    }

    pub fn namespace(self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self }
    }

    pub fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    pub fn body(self, body: &str) -> Self {
        Self { body: Some(body.to_owned()), ..self }
    }

    /// Path and query.
    pub fn url(&self) -> String {
        if self.path.starts_with('/') { self.path.clone() } else { format!("/v1/{}", self.path) }
    }
}

pub fn encrypt(token: &str) -> Call {
    encrypt_with(token, "transit", KEY, 1)
}

pub fn encrypt_with(token: &str, mount: &str, key: &str, version: u32) -> Call {
    let body = json!({ "plaintext": PLAINTEXT, "key_version": version });
    Call::post(&format!("{mount}/encrypt/{key}"), body).token(token).kind("encrypt")
}

pub fn decrypt(token: &str, ciphertext: &str) -> Call {
    decrypt_with(token, "transit", KEY, json!({ "ciphertext": ciphertext }))
}

pub fn decrypt_with(token: &str, mount: &str, key: &str, body: Value) -> Call {
    Call::post(&format!("{mount}/decrypt/{key}"), body).token(token).kind("decrypt")
}

pub fn read_key(token: &str) -> Call {
    read_key_of(token, "transit", KEY)
}

pub fn read_key_of(token: &str, mount: &str, key: &str) -> Call {
    Call::get(&format!("{mount}/keys/{key}")).token(token).kind("read_key")
}

pub fn lookup(token: &str) -> Call {
    Call::get("auth/token/lookup-self").token(token).kind("lookup")
}

pub fn renew(token: &str) -> Call {
    Call::new(Method::POST, "auth/token/renew-self").token(token).kind("renew")
}

pub fn capabilities(token: &str) -> Call {
    let paths = json!({ "paths": [format!("transit/encrypt/{KEY}")] });
    Call::post("sys/capabilities-self", paths).token(token).kind("capabilities")
}

pub fn health() -> Call {
    Call::get(HEALTH).kind("health")
}

/// `sys/health` without the query, as load balancers ask it.
pub fn plain_health() -> Call {
    Call::get("sys/health").kind("plain_health")
}

pub fn approle(role_id: &str, secret_id: &str) -> Call {
    login("auth/approle/login", json!({ "role_id": role_id, "secret_id": secret_id }))
}

pub fn login(path: &str, body: Value) -> Call {
    Call::post(path, body).kind("login")
}

pub fn wrapping_lookup(token: &str) -> Call {
    Call::post("sys/wrapping/lookup", json!({ "token": token })).kind("wrapping_lookup")
}

pub fn unwrap(token: &str) -> Call {
    Call::new(Method::POST, "sys/wrapping/unwrap").token(token).kind("unwrap")
}

/// Every call of an agent that holds this token.
pub fn with_token(token: &str) -> Vec<Call> {
    vec![
        encrypt(token),
        decrypt(token, CIPHERTEXT),
        read_key(token),
        lookup(token),
        renew(token),
        capabilities(token),
    ]
}

/// Every call that needs no state of the server: for servers that answer all in one way.
pub fn all(token: &str) -> Vec<Call> {
    let nil = "00000000-0000-4000-8000-000000000000";
    let mut calls = with_token(token);
    calls.extend([approle(nil, nil), wrapping_lookup(token), unwrap(token), health(), plain_health()]);
    calls
}
