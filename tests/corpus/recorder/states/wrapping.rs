//! Wrapping tokens: fresh, used, expired, and of something else.

use std::time::Duration;

use serde_json::json;

use super::usual;
use crate::answer::Recorder;
use crate::call::{self, Call};
use crate::server::Server;
use crate::support::product::Product;

async fn wrapped(server: &Server, path: &str, ttl: &'static str) -> String {
    let call = Call::post(path, json!({})).token(&server.root).header("x-vault-wrap-ttl", ttl);
    server.send(&call).await.json()["wrap_info"]["token"].as_str().unwrap().to_owned()
}

pub async fn record(recorder: &Recorder) {
    let server = usual(recorder.product).await;
    let path = "auth/approle/role/kms/secret-id";
    let both = |token: &str| vec![call::wrapping_lookup(token), call::unwrap(token)];

    let token = wrapped(&server, path, "5m").await;
    recorder.state("wrapping-fresh", "the wrapping token is fresh").ask_all(&server, both(&token)).await;
    recorder.state("wrapping-used", "the wrapping token was used").ask_all(&server, both(&token)).await;

    let token = wrapped(&server, path, "1s").await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    recorder.state("wrapping-expired", "the wrapping token has expired").ask_all(&server, both(&token)).await;

    let token = wrapped(&server, "sys/wrapping/wrap", "5m").await;
    let state = recorder.state("wrapping-other-path", "the wrapping token was made for something else");
    state.ask(&server, call::wrapping_lookup(&token)).await;

    let prefix = if recorder.product == Product::Vault { "hvs." } else { "s." };
    let unknown = format!("{prefix}BBBBBBBBBBBBBBBBBBBBBBBB");
    recorder
        .state("wrapping-unknown", "the wrapping token is of another server")
        .ask_all(&server, both(&unknown))
        .await;

    let plain = server.token(json!({ "policies": ["kms", "default"] })).await;
    let state = recorder.state("wrapping-plain-token", "a plain token lies in place of the wrapping token");
    state.ask_all(&server, both(&plain)).await;
}
