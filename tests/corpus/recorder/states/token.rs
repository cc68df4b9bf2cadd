//! Tokens that are no longer, or never were, valid here.

use std::time::Duration;

use serde_json::json;

use super::{ids, usual};
use crate::answer::Recorder;
use crate::call::{self, Call};
use crate::support::product::Product;

pub async fn record(recorder: &Recorder) {
    let server = usual(recorder.product).await;
    let policies = json!(["kms", "default"]);

    let revoked = server.token(json!({ "policies": policies })).await;
    server.put("auth/token/revoke", json!({ "token": revoked })).await;
    recorder
        .state("token-revoked", "the token was revoked")
        .ask_all(&server, call::with_token(&revoked))
        .await;

    let expired = server.token(json!({ "policies": policies, "ttl": "1s" })).await;
    let batch = json!({ "policies": policies, "ttl": "1s", "type": "batch" });
    let expired_batch = server.token(batch.clone()).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let state = recorder.state("token-expired", "the token has expired");
    state
        .ask_all(&server, vec![call::encrypt(&expired), call::lookup(&expired), call::renew(&expired)])
        .await;
    let state = recorder.state("batch-expired", "the batch token has expired");
    let calls =
        vec![call::encrypt(&expired_batch), call::lookup(&expired_batch), call::renew(&expired_batch)];
    state.ask_all(&server, calls).await;

    let batch = server.token(json!({ "policies": policies, "ttl": "1h", "type": "batch" })).await;
    let state = recorder.state("batch-token", "the token is a valid batch token");
    state.ask_all(&server, vec![call::lookup(&batch), call::renew(&batch)]).await;

    // Of a parent that is revoked.
    let parent = server.token(json!({ "policies": ["root"], "ttl": "1h" })).await;
    let create =
        Call::post("auth/token/create", json!({ "policies": ["kms"], "type": "batch" })).token(&parent);
    let child = server.send(&create).await.json()["auth"]["client_token"].as_str().unwrap().to_owned();
    server.put("auth/token/revoke", json!({ "token": parent })).await;
    let state = recorder.state("batch-orphaned", "the batch token's parent was revoked");
    state.ask_all(&server, vec![call::encrypt(&child), call::lookup(&child)]).await;

    let fixed = server.token(json!({ "policies": policies, "renewable": false, "ttl": "1h" })).await;
    let state = recorder.state("token-not-renewable", "the token is valid and not renewable");
    state.ask(&server, call::renew(&fixed)).await;

    let once = server.token(json!({ "policies": policies, "num_uses": 1 })).await;
    server.send(&call::lookup(&once)).await;
    let state = recorder.state("token-used-up", "all uses of the token (num_uses) are spent");
    state.ask_all(&server, vec![call::encrypt(&once), call::lookup(&once)]).await;

    let role = json!({ "token_bound_cidrs": ["192.0.2.0/24"], "allowed_policies": ["kms"] });
    server.put("auth/token/roles/elsewhere", role).await;
    let bound = server.put("auth/token/create/elsewhere", json!({ "policies": ["kms"] })).await;
    let bound = bound["auth"]["client_token"].as_str().unwrap();
    let state = recorder.state("token-bound-cidr", "the token is bound to addresses of another network");
    state.ask_all(&server, call::with_token(bound)).await;

    let prefix = if recorder.product == Product::Vault { "hvs." } else { "s." };
    let other = format!("{prefix}BBBBBBBBBBBBBBBBBBBBBBBB");
    let state = recorder.state("token-unknown", "the token is of another server");
    state.ask_all(&server, vec![call::encrypt(&other), call::lookup(&other)]).await;
    let state = recorder.state("token-malformed", "the token file holds something else");
    let malformed = "not a token";
    state.ask_all(&server, vec![call::encrypt(malformed), call::lookup(malformed)]).await;
    let mut none = call::encrypt("");
    none.token = None;
    let state = recorder.state("token-missing", "the request has no token");
    state.ask(&server, none).await;
    let mut none = call::lookup("");
    none.token = None;
    state.ask(&server, none).await;

    // The role is gone, its tokens are not.
    server.put("auth/approle/role/gone", json!({ "token_policies": "kms" })).await;
    let (role_id, secret_id) = ids(&server, "gone").await;
    let login = server.send(&call::approle(&role_id, &secret_id)).await.json();
    let token = login["auth"]["client_token"].as_str().unwrap().to_owned();
    server.delete("sys/auth/approle").await;
    let state =
        recorder.state("token-of-disabled-auth", "the auth mount that granted the token was disabled");
    state.ask_all(&server, vec![call::encrypt(&token), call::lookup(&token)]).await;
}
