//! End-to-end tests, from a client's Secret to etcd: a real kube-apiserver, a real etcd, a real OpenBao, and the release
//! binary between them.
//!
//! `tests/e2e/run` gets kube-apiserver and etcd, builds the binary, and runs these tests. `cargo test` does not.

#![allow(clippy::restriction)] // a test that fails panics
#![allow(unreachable_pub)] // nobody uses a test program as a library

mod apiserver;
mod enable;
mod encryption;
mod etcd;
mod kustomize;
mod migrate;
mod nodes;
mod offline;
mod outage;
mod probes;
mod reload;
mod rendered;
mod restart;
mod restore;
mod rewrite;
mod scale;
mod seeds;
mod sequences;
#[path = "../integration/support/mod.rs"]
#[allow(dead_code)] // the other tests' support code, of which a part is used
mod support;
mod takeover;
mod traffic;
mod webhook;
mod wildcard;

use support::agent::Agent;
use support::eventually;

/// What `tests/e2e/run` found or made.
fn path_of(variable: &str) -> std::path::PathBuf {
    std::env::var_os(variable).map(Into::into).expect("these tests are run by tests/e2e/run")
}

/// Waits until the agent answers another key_id: it has seen a rotation, or uses another key.
async fn key_id_after(before: &str, agent: &Agent) -> String {
    let mut kms = agent.kms().await;
    eventually("a new key_id", async || {
        let now = kms.status().await.map_err(|status| status.to_string())?.key_id;
        if now == before { Err(now) } else { Ok(now) }
    })
    .await
}
