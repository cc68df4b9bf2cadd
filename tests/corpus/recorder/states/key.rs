//! The Transit key: versions, kinds, damaged ciphertexts, deleted and made again.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use super::{ciphertext, token_with, usual};
use crate::answer::{Recorder, State};
use crate::call::{self, Call};
use crate::server::Server;
use crate::support::product::Product;
use crate::support::vault::{KEY, policy};

pub async fn record(recorder: &Recorder) {
    let server = usual(recorder.product).await;
    let token = token_with(&server, &["kms"]).await;
    let first = ciphertext(&server).await;
    ciphertexts(recorder, &server, &token, &first).await;
    kinds(recorder, &server).await;
    versions(recorder, &server, &token, &first).await;
    deletion(recorder).await;
}

async fn ciphertexts(recorder: &Recorder, server: &Server, token: &str, good: &str) {
    let decrypt = async |name: &str, words: &str, ciphertext: &str| {
        let state = recorder.state(&format!("ciphertext-{name}"), words);
        state.ask(server, call::decrypt(token, ciphertext)).await;
    };
    decrypt("of-another-key", "the ciphertext was made by another key", call::CIPHERTEXT).await;
    decrypt("short", "the ciphertext is too short", "vault:v1:AAAA").await;
    decrypt("not-base64", "the ciphertext is not base64", "vault:v1:***").await;
    decrypt("without-prefix", "the ciphertext has no prefix", "AAAAAAAAAAAAAAAAAAAAAAAA").await;
    decrypt("empty", "the ciphertext is empty", "").await;
    decrypt("version-not-a-number", "the version is not a number", &good.replace(":v1:", ":vx:")).await;
    decrypt("version-zero", "the version is 0", &good.replace(":v1:", ":v0:")).await;
    decrypt("version-ahead", "the version does not exist yet", &good.replace(":v1:", ":v9:")).await;

    let encoded = |text: &str| json!({ "plaintext": call::PLAINTEXT, "associated_data": text });
    let bound = server.put(&format!("transit/encrypt/{KEY}"), encoded("b25l")).await;
    let bound = bound["data"]["ciphertext"].clone();
    let state = recorder.state("aad-wrong", "the associated data are others than at the encryption");
    let body = json!({ "ciphertext": bound, "associated_data": "dHdv" });
    state.ask(server, call::decrypt_with(token, "transit", KEY, body)).await;
    let state = recorder.state("aad-missing", "the associated data of the encryption are missing");
    state.ask(server, call::decrypt_with(token, "transit", KEY, json!({ "ciphertext": bound }))).await;
    let path = format!("transit/encrypt/{KEY}");
    let state = recorder.state("plaintext-not-base64", "the plaintext is not base64");
    state.ask(server, Call::post(&path, json!({ "plaintext": "*" })).token(token).kind("encrypt")).await;
}

/// Keys that the agent cannot use.
async fn kinds(recorder: &Recorder, server: &Server) {
    server.policy("kinds", "path \"transit/+/*\" { capabilities = [\"read\", \"update\"] }").await;
    let token = token_with(server, &["kinds"]).await;
    for (name, words, fields) in [
        ("ed25519", "the key can only sign", json!({ "type": "ed25519" })),
        ("rsa-2048", "the key is asymmetric", json!({ "type": "rsa-2048" })),
        ("hmac", "the key is for HMAC alone", json!({ "type": "hmac", "key_size": 32 })),
        ("derived", "the key is derived and needs a context", json!({ "derived": true })),
        ("aes128", "the key has the type aes128-gcm96", json!({ "type": "aes128-gcm96" })),
    ] {
        server.put(&format!("transit/keys/{name}"), fields).await;
        let state = recorder.state(&format!("key-{name}"), words);
        state.ask(server, call::read_key_of(&token, "transit", name)).await;
        if !["rsa-2048", "aes128"].contains(&name) {
            state.ask(server, call::encrypt_with(&token, "transit", name, 1)).await;
            let body = json!({ "ciphertext": call::CIPHERTEXT });
            state.ask(server, call::decrypt_with(&token, "transit", name, body)).await;
        }
    }
}

async fn versions(recorder: &Recorder, server: &Server, token: &str, first: &str) {
    let state = recorder.state("version-ahead", "the wanted version is above the latest");
    state.ask(server, call::encrypt_with(token, "transit", KEY, 2)).await;
    for _ in 0..2 {
        server.put(&format!("transit/keys/{KEY}/rotate"), json!({})).await;
    }
    let rotated = recorder.state("rotated", "the key has three versions");
    rotated.ask_all(server, vec![call::read_key(token), call::decrypt(token, first)]).await;
    rotated.ask(server, call::encrypt_with(token, "transit", KEY, 3)).await;

    let config = format!("transit/keys/{KEY}/config");
    server.put(&config, json!({ "min_encryption_version": 3 })).await;
    let state = recorder.state("min-encryption", "min_encryption_version was raised above this version");
    state.ask(server, call::encrypt_with(token, "transit", KEY, 2)).await;
    server.put(&config, json!({ "min_decryption_version": 2 })).await;
    let state = recorder.state("min-decryption", "min_decryption_version was raised above this version");
    state.ask_all(server, vec![call::decrypt(token, first), call::read_key(token)]).await;
    server.put(&config, json!({ "min_decryption_version": 3 })).await;
    server.put(&format!("transit/keys/{KEY}/trim"), json!({ "min_available_version": 3 })).await;
    let state = recorder.state("trimmed", "the old versions were trimmed");
    state.ask_all(server, vec![call::decrypt(token, first), call::read_key(token)]).await;
    state.ask(server, call::encrypt_with(token, "transit", KEY, 1)).await;
}

async fn deletion(recorder: &Recorder) {
    let server = usual(recorder.product).await;
    let token = token_with(&server, &["kms"]).await;
    let first = ciphertext(&server).await;
    server.put(&format!("transit/keys/{KEY}/config"), json!({ "deletion_allowed": true })).await;
    let state = recorder.state("deletable", "the key may be deleted");
    state.ask(&server, call::read_key(&token)).await;
    if recorder.product == Product::OpenBao {
        soft_deletion(recorder, &server, &token, &first).await;
    }
    server.delete(&format!("transit/keys/{KEY}")).await;
    let creates = policy("transit", KEY).replace("\"update\"", "\"create\", \"update\"");
    server.policy("creates", &creates).await;
    let state = recorder.state("key-deleted", "the key was deleted; the policy grants update alone");
    ask_three(&state, &server, &token, &first).await;
    // encrypt would make a key, without a pinned version or with one.
    let may_create = token_with(&server, &["creates"]).await;
    let state =
        recorder.state("key-deleted-may-create", "the key was deleted; the policy grants create, too");
    state.ask(&server, call::decrypt(&may_create, &first)).await;
    state.ask(&server, call::encrypt_with(&may_create, "transit", KEY, 2)).await;

    tokio::time::sleep(Duration::from_millis(1100)).await;
    server.put(&format!("transit/keys/{KEY}"), json!({})).await;
    let state = recorder.state("key-recreated", "the key was deleted and made again");
    ask_three(&state, &server, &token, &first).await;
    let state = recorder.state("key-recreated-version", "the key was made again and has fewer versions");
    state.ask(&server, call::encrypt_with(&token, "transit", KEY, 2)).await;
}

async fn soft_deletion(recorder: &Recorder, server: &Server, token: &str, first: &str) {
    let soft = Call::new(Method::DELETE, &format!("transit/keys/{KEY}/soft-delete")).token(&server.root);
    let answer = server.send(&soft).await;
    if answer.status >= 300 {
        let post = server.put(&format!("transit/keys/{KEY}/soft-delete"), json!({})).await;
        drop(post);
    }
    let state = recorder.state("key-soft-deleted", "the key is soft-deleted");
    ask_three(&state, server, token, first).await;
    server.put(&format!("transit/keys/{KEY}/soft-delete-restore"), json!({})).await;
}

async fn ask_three(state: &State<'_>, server: &Server, token: &str, ciphertext: &str) {
    state.ask(server, call::encrypt(token)).await;
    state.ask(server, call::decrypt(token, ciphertext)).await;
    state.ask(server, call::read_key(token)).await;
}
