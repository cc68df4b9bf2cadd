//! A server, or a balancer before it, asks the agent to come back in an hour; then the agent loses its right. The agent
//! must not sleep for that hour.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::figures::Figures;
use crate::node::{Node, PAUSE, until};
use crate::support::agent::LOCAL_KEK;
use crate::support::kms::SEED;
use crate::support::proxy::{Mode, Proxy};
use crate::support::vault::Vault;
use crate::tenant::{Loss, Tenant};

/// As for any refusal that no call shows.
const SEEN: Duration = Duration::from_secs(90);
/// HAProxy's words, with the pause that an administrator may add; the servers under test say 503 without one.
const MAINTENANCE: &str = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3600\r\nContent-Type: text/html\r\n\
    Content-Length: 107\r\nConnection: close\r\n\r\n<html><body><h1>503 Service Unavailable</h1>\n\
    No server is available to handle this request.\n</body></html>\n";

#[test]
fn a_revocation_is_seen_although_a_pause_of_an_hour_was_asked_for() {
    let figures = Figures::default();
    figures.run(async |_| {
        let vault = Vault::start().await;
        vault.post("sys/quotas/config", json!({ "enable_rate_limit_response_headers": true })).await;
        let ways = [(429, false), (429, true), (503, false), (503, true)];
        join_all(ways.map(|(code, local)| revocation(&figures, &vault, code, local))).await;
    });
    figures.finish();
}

async fn revocation(figures: &Figures, vault: &Vault, code: u16, local: bool) {
    let mode = if local { "local KEKs" } else { "direct" };
    let tenant = Tenant::new(vault, &format!("{code}-{mode}").replace(' ', "-")).await;
    let proxy = Proxy::before(&vault.address).await;
    let config = tenant.config(&[&proxy.address]) + if local { LOCAL_KEK } else { "" };
    let seed = tenant.seed(vault).await;
    let mut node = Node::ready(&config).await;
    let quotas = ["encrypt", "decrypt"].map(|operation| {
        let path = format!("transit/{operation}/{}", tenant.name);
        (format!("sys/quotas/rate-limit/{}-{operation}", tenant.name), path)
    });
    if code == 429 {
        for (quota, path) in &quotas {
            let limit = json!({ "path": path, "rate": 1, "interval": "1h", "block_interval": "1h" });
            vault.post(quota, limit).await;
        }
        // The quota allows one request of each kind.
        for (_, path) in &quotas {
            vault.request(Method::POST, path, json!({ "plaintext": "" }), "").await;
        }
    } else {
        proxy.set(Mode::Answer(MAINTENANCE));
    }
    // A call, and then the agent itself, meet the answer.
    until("an answer with Retry-After", Instant::now(), Duration::from_secs(1), async || {
        let _refused = node.kms.decrypt_raw(&seed, "1").await;
        let _refused = node.kms.encrypt(&SEED).await;
        node.agent.status().unwrap()["phase"] == "degraded"
    })
    .await;
    if code == 429 {
        for (quota, _) in &quotas {
            vault.delete(quota).await;
        }
    } else {
        proxy.set(Mode::Pass);
    }
    let revoked = Instant::now();
    tenant.lose(vault, Loss::Right).await;
    let took = until("not ok", revoked, PAUSE, async || !node.is_ok().await).await;
    let what = |words: &str| format!("{code} with Retry-After of an hour, {mode}: {words}");
    figures.time(&what("a revocation is seen"), SEEN, took);
    if local {
        let wiped = "are wiped: the key service refuses us";
        let took = until("wiped", revoked, PAUSE, async || node.agent.log().contains(wiped)).await;
        figures.time(&what("wiped"), SEEN, took);
    }
}
