//! KMS v2 on the socket, with Transit behind it.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tonic::Code;

use crate::support::agent::{Agent, QUICK, QUIET};
use crate::support::eventually;
use crate::support::kms::{Kms, SEED};
use crate::support::vault::{KEY, Vault};

#[tokio::test]
async fn a_wrapped_seed_is_plain_transit_ciphertext() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let mut kms = agent.kms().await;
    let status = kms.status().await.unwrap();
    assert_eq!((status.version.as_str(), status.healthz.as_str()), ("v2", "ok"));
    let wrapped = kms.round_trip().await;
    assert_eq!(wrapped.key_id, status.key_id);
    assert!(wrapped.ciphertext.starts_with(b"vault:v1:") && wrapped.annotations.is_empty());
    // No lock-in: the key service alone decrypts what we wrote.
    let ciphertext = String::from_utf8(wrapped.ciphertext).unwrap();
    let answer = vault.post(&format!("transit/decrypt/{KEY}"), json!({ "ciphertext": ciphertext })).await;
    assert_eq!(answer["data"]["plaintext"], STANDARD.encode(SEED));
}

#[tokio::test]
async fn encrypt_keeps_the_version_that_status_announced_on_its_connection() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let mut before = agent.kms().await;
    let announced = before.status().await.unwrap().key_id;
    vault.rotate().await;
    let mut after = agent.kms().await;
    let newer = eventually("the rotation", async || {
        let key_id = after.status().await.unwrap().key_id;
        if key_id != announced { Ok(key_id) } else { Err(key_id) }
    })
    .await;
    let old = before.round_trip().await;
    assert_eq!(old.key_id, announced);
    assert!(old.ciphertext.starts_with(b"vault:v1:"));
    let new = after.round_trip().await;
    assert_eq!(new.key_id, newer);
    assert!(new.ciphertext.starts_with(b"vault:v2:"));
    // The next Status on the first connection announces the new one, and old data stays readable.
    assert_eq!(before.status().await.unwrap().key_id, newer);
    assert_eq!(before.round_trip().await.key_id, newer);
    assert_eq!(after.decrypt(&old).await.unwrap(), SEED);
}

#[tokio::test]
async fn a_pinned_version_below_min_encryption_version_is_not_used() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let mut before = agent.kms().await;
    let announced = before.status().await.unwrap().key_id;
    vault.rotate().await;
    vault.post(&format!("transit/keys/{KEY}/config"), json!({ "min_encryption_version": 2 })).await;
    eventually("min_encryption_version", async || {
        let status = agent.status().unwrap();
        let seen = status["primary"]["key"]["min_encryption"].clone();
        if seen == 2 { Ok(()) } else { Err(seen.to_string()) }
    })
    .await;
    let wrapped = before.round_trip().await;
    assert_ne!(wrapped.key_id, announced);
    assert!(wrapped.ciphertext.starts_with(b"vault:v2:"));
}

#[tokio::test]
async fn an_agent_that_has_not_seen_a_rotation_yet_reads_new_data_at_once() {
    let vault = Vault::start().await;
    let first = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let second = Agent::ready(&(vault.vault_config() + QUIET)).await;
    vault.rotate().await;
    let mut kms = first.kms().await;
    let written = eventually("the rotation", async || {
        kms.status().await.unwrap();
        let wrapped = kms.encrypt(&SEED).await.unwrap();
        if wrapped.ciphertext.starts_with(b"vault:v2:") { Ok(wrapped) } else { Err("version 1".into()) }
    })
    .await;
    let mut lagging = second.kms().await;
    assert_ne!(lagging.status().await.unwrap().key_id, written.key_id);
    assert_eq!(lagging.decrypt(&written).await.unwrap(), SEED);
    assert_eq!(lagging.status().await.unwrap().key_id, written.key_id, "the agent has read the key");
    assert!(!second.log().contains("no configured key"), "a rotation elsewhere is normal");
}

#[tokio::test]
async fn data_of_another_transit_plugin_is_read_unless_that_is_switched_off() {
    let vault = Vault::start().await;
    let plaintext = STANDARD.encode(SEED);
    let answer = vault.post(&format!("transit/encrypt/{KEY}"), json!({ "plaintext": plaintext })).await;
    let ciphertext = answer["data"]["ciphertext"].as_str().unwrap().as_bytes().to_vec();
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let mut kms = agent.kms().await;
    assert_eq!(kms.decrypt_raw(&ciphertext, "1").await.unwrap(), SEED);
    agent.wait_for_log("another plugin wrote").await;
    let off =
        vault.vault_config().replace("[vault.transit]", "[vault.transit]\naccept_foreign_ciphertext = false");
    let agent = Agent::ready(&(off + QUIET)).await;
    let refused = agent.kms().await.decrypt_raw(&ciphertext, "1").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("accept_foreign_ciphertext"), "{}", refused.message());
}

#[tokio::test]
async fn data_below_min_decryption_version_is_refused_with_the_remedy() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let mut kms = agent.kms().await;
    let old = kms.round_trip().await;
    vault.rotate().await;
    vault.post(&format!("transit/keys/{KEY}/config"), json!({ "min_decryption_version": 2 })).await;
    let told = |status: tonic::Status| {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("min_decryption_version"), "{status}");
    };
    eventually("the refusal", async || kms.decrypt(&old).await.err().map(told).ok_or("not yet".to_owned()))
        .await;
    // An agent that never saw version 1 gives the same reason.
    let fresh = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let refused = fresh.kms().await.decrypt(&old).await.unwrap_err();
    assert!(refused.message().contains("lower it to 1"), "{refused}");
    told(refused);
    // The remedy works.
    vault.post(&format!("transit/keys/{KEY}/config"), json!({ "min_decryption_version": 1 })).await;
    assert_eq!(kms.decrypt(&old).await.unwrap(), SEED);
}

#[tokio::test]
async fn a_hanging_server_delays_encrypt_to_its_deadline_and_not_status() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let mut kms = agent.kms().await;
    let key_id = kms.status().await.unwrap().key_id;
    vault.freeze();
    let started = Instant::now();
    // The caller's deadline is what this test is about.
    let late = kms.clone().within(Duration::from_millis(600)).encrypt(&SEED).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    assert!(late.message().contains("remedy"), "the agent answered, not the client's own timer: {late}");
    assert!(started.elapsed() >= Duration::from_millis(500), "no answer before the time was used");
    let status = kms.status().await.unwrap();
    assert_eq!((status.healthz.as_str(), status.key_id), ("ok", key_id));
    vault.thaw();
    kms.round_trip().await;
}

#[tokio::test]
async fn calls_over_the_limit_are_refused_and_not_queued() {
    let vault = Vault::start().await;
    let config = vault.vault_config() + QUIET;
    let mut agent = Agent::ready(&config).await;
    agent.stop().await;
    let limited = [("KMS_PLUGIN_SERVER_MAX_IN_FLIGHT", "2")];
    let agent = Agent::start_in(tempfile::tempdir().unwrap(), &config, &limited);
    agent.wait_for_phase("ready").await;
    let kms = agent.kms().await;
    kms.clone().round_trip().await;
    vault.freeze();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..6 {
        // The two that are admitted wait for the frozen server, and end at their deadline.
        let mut kms = kms.clone().within(Duration::from_secs(1));
        calls.spawn(async move { kms.encrypt(&SEED).await.unwrap_err().code() });
    }
    let codes = calls.join_all().await;
    let count = |code| codes.iter().filter(|found| **found == code).count();
    assert_eq!((count(Code::ResourceExhausted), count(Code::DeadlineExceeded)), (4, 2), "{codes:?}");
    let mut status = kms.clone();
    assert_eq!(status.status().await.unwrap().healthz, "ok", "Status does not count towards the limit");
    vault.thaw();
    kms.clone().round_trip().await;
}

#[tokio::test]
async fn without_a_key_service_every_call_is_refused_with_the_reason() {
    let config = "[vault]\naddresses = [\"http://127.0.0.1:9\"]\n[vault.transit]\nkey = \"k\"\n[vault.auth]\nmethod = \"approle\"\nrole_id = \"r\"\nsecret_id_file = \"/nonexistent\"\n";
    let agent = Agent::start(config);
    let mut kms = agent.kms().await;
    let refused = eventually("a reason", async || {
        let status = kms.status().await.unwrap_err();
        if status.message().contains("no contact") { Err(status.message().to_owned()) } else { Ok(status) }
    })
    .await;
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("/nonexistent") && refused.message().contains("remedy"), "{refused}");
    assert_eq!(kms.encrypt(&SEED).await.unwrap_err().code(), Code::Unavailable);
    let (code, body) = agent.admin("GET", "/healthz").unwrap();
    assert!(code == 503 && body.contains("/nonexistent"), "{code} {body}");
    assert_eq!(agent.admin("GET", "/livez").unwrap().0, 200);
    assert_eq!(agent.admin("GET", "/readyz").unwrap().0, 503);
}

#[tokio::test]
async fn only_allowed_users_may_call() {
    let vault = Vault::start().await;
    let nobody_else = [("KMS_PLUGIN_SERVER_ALLOWED_UIDS", "4294967294")];
    let agent = Agent::start_in(tempfile::tempdir().unwrap(), &(vault.vault_config() + QUIET), &nobody_else);
    agent.wait_for_phase("ready").await;
    let mut kms: Kms = agent.kms().await;
    for refused in
        [kms.status().await.err(), kms.encrypt(&SEED).await.err(), kms.decrypt_raw(b"x", "y").await.err()]
    {
        let refused = refused.unwrap();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains("allowed_uids"), "{refused}");
    }
}
