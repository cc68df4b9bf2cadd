//! Mounts that are missing, or of another kind than Transit.

use serde_json::json;

use super::{token_with, usual};
use crate::answer::Recorder;
use crate::call::{self, Call};
use crate::support::vault::KEY;

pub async fn record(recorder: &Recorder) {
    let server = usual(recorder.product).await;
    server.policy("all", "path \"+/+/*\" { capabilities = [\"create\", \"read\", \"update\"] }").await;
    let token = token_with(&server, &["all"]).await;
    server.put("sys/mounts/kv1", json!({ "type": "kv", "options": { "version": "1" } })).await;
    server.put("sys/mounts/kv2", json!({ "type": "kv", "options": { "version": "2" } })).await;
    server.put("sys/mounts/pki", json!({ "type": "pki" })).await;
    for (mount, words) in [
        ("nowhere", "nothing is mounted there; the policy grants the path"),
        ("kv1", "a KV mount of version 1 is there instead of Transit"),
        ("kv2", "a KV mount of version 2 is there instead of Transit"),
        ("pki", "a PKI mount is there instead of Transit"),
    ] {
        let state = recorder.state(&format!("mount-{mount}"), words);
        state.ask(&server, call::encrypt_with(&token, mount, KEY, 1)).await;
        let body = json!({ "ciphertext": call::CIPHERTEXT });
        state.ask(&server, call::decrypt_with(&token, mount, KEY, body)).await;
        // The KV mount of version 1 would answer with what the request before wrote.
        state.ask(&server, call::read_key_of(&token, mount, KEY)).await;
    }
    let kms = token_with(&server, &["kms"]).await;
    let state =
        recorder.state("mount-without-right", "nothing is mounted there; the policy is for another mount");
    state.ask(&server, call::encrypt_with(&kms, "nowhere", KEY, 1)).await;
    state.ask(&server, call::read_key_of(&kms, "nowhere", KEY)).await;

    let state = recorder.state("unsupported-method", "the path does not know this method");
    state.ask(&server, Call::get(&format!("transit/encrypt/{KEY}")).token(&token).kind("encrypt")).await;
    let state = recorder.state("unsupported-path", "Transit does not know this path");
    state.ask(&server, Call::get("transit/nothing/here").token(&token).kind("read_key")).await;

    server.put("sys/mounts/away", json!({ "type": "transit" })).await;
    server.delete("sys/mounts/away").await;
    let state = recorder.state("mount-disabled", "Transit was disabled there");
    state.ask(&server, call::read_key_of(&token, "away", KEY)).await;
}
