//! A server that is well, and an agent that may do all: what success looks like.

use serde_json::json;

use super::{ciphertext, ids, usual};
use crate::answer::Recorder;
use crate::call::{self, Call};

pub async fn record(recorder: &Recorder) {
    let server = usual(recorder.product).await;
    let token = server.token(json!({ "policies": ["kms", "default"], "ttl": "1h" })).await;
    let well =
        recorder.state("well", "all is well; the token has the policy of the guide and the default policy");
    well.ask(&server, call::encrypt(&token)).await;
    well.ask(&server, call::decrypt(&token, &ciphertext(&server).await)).await;
    let token_calls =
        vec![call::read_key(&token), call::lookup(&token), call::renew(&token), call::capabilities(&token)];
    well.ask_all(&server, token_calls).await;
    let (role_id, secret_id) = ids(&server, "kms").await;
    well.ask(&server, call::approle(&role_id, &secret_id)).await;
    well.ask_all(&server, vec![call::health(), call::plain_health()]).await;

    let root = recorder.state("root-token", "the token does not expire");
    root.ask_all(&server, vec![call::lookup(&server.root), call::renew(&server.root)]).await;

    let batch = json!({ "token_policies": "kms", "token_type": "batch", "token_ttl": "1h" });
    server.put("auth/approle/role/batch", batch).await;
    let (role_id, secret_id) = ids(&server, "batch").await;
    let batch = recorder.state("batch", "the role grants batch tokens");
    batch.ask(&server, call::approle(&role_id, &secret_id)).await;

    let own = recorder.state("near-max-ttl", "a renewal grants less than was asked, with a warning");
    let short = server.token(json!({ "policies": ["kms", "default"], "explicit_max_ttl": "90s" })).await;
    own.ask(
        &server,
        Call::post("auth/token/renew-self", json!({ "increment": "1h" })).token(&short).kind("renew"),
    )
    .await;
}
