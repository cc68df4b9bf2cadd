//! Namespaces that do not exist, or are locked. Vault's Community edition ignores the header.

use reqwest::Method;
use serde_json::json;

use super::{ids, usual};
use crate::answer::Recorder;
use crate::call::{self, Call};
use crate::server::Server;
use crate::support::product::Product;
use crate::support::vault::{KEY, policy};

async fn ask_all(
    recorder: &Recorder,
    server: &Server,
    name: &str,
    words: &str,
    namespace: &str,
    token: &str,
) {
    let state = recorder.state(name, words);
    let (role_id, secret_id) = ids(server, "kms").await;
    let mut calls = call::with_token(token);
    calls.extend([call::approle(&role_id, &secret_id), call::wrapping_lookup(token)]);
    for call in calls {
        state.ask(server, call.namespace(namespace)).await;
    }
}

pub async fn record(recorder: &Recorder) {
    let server = usual(recorder.product).await;
    let token = server.token(json!({ "policies": ["kms", "default"], "ttl": "1h" })).await;
    ask_all(recorder, &server, "namespace-missing", "there is no such namespace", "nowhere", &token).await;
    if recorder.product == Product::Vault {
        return;
    }
    server.put("sys/namespaces/team", json!({})).await;
    let state = recorder.state("namespace-other", "the token is of another namespace than the key");
    for call in [call::encrypt(&token), call::lookup(&token)] {
        state.ask(&server, call.namespace("team")).await;
    }
    server.put_in("team", "sys/mounts/transit", json!({ "type": "transit" })).await;
    server.put_in("team", &format!("transit/keys/{KEY}"), json!({})).await;
    server.put_in("team", "sys/policies/acl/kms", json!({ "policy": policy("transit", KEY) })).await;
    let create = json!({ "policies": ["kms", "default"], "ttl": "1h" });
    let inside = server.put_in("team", "auth/token/create", create).await;
    let inside = inside["auth"]["client_token"].as_str().unwrap().to_owned();
    let lock = Call::new(Method::PUT, "sys/namespaces/api-lock/lock/team").token(&server.root);
    let locked = server.send(&lock).await;
    assert!(locked.status < 300, "{}", locked.body);
    let words = "an administrator locked the namespace";
    ask_all(recorder, &server, "namespace-locked", words, "team", &inside).await;
}
