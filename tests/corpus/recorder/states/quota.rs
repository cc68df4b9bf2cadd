//! Quotas: of requests, with and without their headers, and of leases.

use serde_json::json;

use super::{ids, token_with, usual};
use crate::answer::Recorder;
use crate::call::{self, Call};

pub async fn record(recorder: &Recorder) {
    let server = usual(recorder.product).await;
    let token = token_with(&server, &["kms", "default"]).await;
    let (role_id, secret_id) = ids(&server, "kms").await;
    let login = call::approle(&role_id, &secret_id);

    let tight = |path: &str| json!({ "path": path, "rate": 1, "interval": "1h" });
    server.put("sys/quotas/rate-limit/transit", tight("transit")).await;
    server.put("sys/quotas/rate-limit/approle", tight("auth/approle")).await;
    for call in [call::encrypt(&token), login.clone()] {
        server.send(&call).await;
    }
    let state = recorder.state("quota", "a rate limit quota of the mount is used up");
    state.ask_all(&server, vec![call::encrypt(&token), call::read_key(&token), login.clone()]).await;

    server.put("sys/quotas/config", json!({ "enable_rate_limit_response_headers": true })).await;
    let state = recorder.state("quota-headers", "the same with enable_rate_limit_response_headers");
    state.ask_all(&server, vec![call::encrypt(&token), login.clone()]).await;
    for name in ["transit", "approle"] {
        server.delete(&format!("sys/quotas/rate-limit/{name}")).await;
    }

    let loose = json!({ "path": "transit", "rate": 1000, "interval": "1h" });
    server.put("sys/quotas/rate-limit/transit", loose).await;
    let state = recorder.state("quota-left", "a rate limit quota has requests left, and says so in headers");
    state.ask(&server, call::encrypt(&token)).await;
    server.delete("sys/quotas/rate-limit/transit").await;

    let blocking = json!({ "path": "transit", "rate": 1, "interval": "1h", "block_interval": "2h" });
    server.put("sys/quotas/rate-limit/transit", blocking).await;
    for _ in 0..2 {
        server.send(&call::encrypt(&token)).await;
    }
    let state = recorder.state("quota-blocked", "a client above the quota is blocked for block_interval");
    state.ask(&server, call::encrypt(&token)).await;

    let leases = Call::post("sys/quotas/lease-count/all", json!({ "path": "auth/approle", "max_leases": 1 }));
    let made = server.send(&leases.token(&server.root)).await;
    if made.status >= 300 {
        println!("no lease-count quota here: {} {}", made.status, made.body.trim());
        return;
    }
    server.send(&login).await;
    let state = recorder.state("quota-leases", "a lease count quota is used up");
    state.ask(&server, login).await;
}
