//! The states, in groups. Each group starts its own servers.

mod cluster;
mod key;
mod login;
mod mount;
mod namespace;
mod other_login;
mod policy;
mod quota;
mod seal;
mod token;
mod transport;
mod well;
mod wrapping;

use serde_json::json;

use crate::answer::Recorder;
use crate::server::Server;
use crate::support::product::Product;
use crate::support::vault::{KEY, policy};

/// The groups, in the order in which they are recorded.
pub fn names() -> Vec<&'static str> {
    vec![
        "well",
        "seal",
        "token",
        "policy",
        "login",
        "other_login",
        "wrapping",
        "key",
        "mount",
        "namespace",
        "quota",
        "transport",
        "cluster",
    ]
}

pub async fn record(name: &str, recorder: &Recorder) {
    match name {
        "well" => well::record(recorder).await,
        "seal" => seal::record(recorder).await,
        "token" => token::record(recorder).await,
        "policy" => policy::record(recorder).await,
        "login" => login::record(recorder).await,
        "other_login" => other_login::record(recorder).await,
        "wrapping" => wrapping::record(recorder).await,
        "key" => key::record(recorder).await,
        "mount" => mount::record(recorder).await,
        "namespace" => namespace::record(recorder).await,
        "quota" => quota::record(recorder).await,
        "transport" => transport::record(recorder).await,
        "cluster" => cluster::record(recorder).await,
        _ => unreachable!("names() has all"),
    }
}

/// A server with Transit, the usual key, the guide's policy, and an AppRole that gets it.
pub async fn usual(product: Product) -> Server {
    let server = Server::well(product).await;
    set_up(&server).await;
    server
}

pub async fn set_up(server: &Server) {
    server.put("sys/mounts/transit", json!({ "type": "transit" })).await;
    server.put(&format!("transit/keys/{KEY}"), json!({})).await;
    server.policy("kms", &policy("transit", KEY)).await;
    server.put("sys/auth/approle", json!({ "type": "approle" })).await;
    let role = json!({ "token_policies": "kms", "token_no_default_policy": true, "token_ttl": "1h" });
    server.put("auth/approle/role/kms", role).await;
}

/// A role-id and a fresh secret-id.
pub async fn ids(server: &Server, role: &str) -> (String, String) {
    let role_id = server.get(&format!("auth/approle/role/{role}/role-id")).await;
    let secret_id = server.put(&format!("auth/approle/role/{role}/secret-id"), json!({})).await;
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    (text(&role_id["data"]["role_id"]), text(&secret_id["data"]["secret_id"]))
}

/// A token with these policies and no others.
pub async fn token_with(server: &Server, policies: &[&str]) -> String {
    server.token(json!({ "policies": policies, "no_default_policy": true, "ttl": "1h" })).await
}

/// A ciphertext of the usual key.
pub async fn ciphertext(server: &Server) -> String {
    let body = json!({ "plaintext": crate::call::PLAINTEXT });
    let answer = server.put(&format!("transit/encrypt/{KEY}"), body).await;
    answer["data"]["ciphertext"].as_str().unwrap().to_owned()
}
