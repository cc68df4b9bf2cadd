//! The identity of the key: a replaced or rolled-back key is refused, also after a restart, until it is accepted.

use serde_json::json;
use tonic::Code;

use crate::support::agent::{Agent, QUICK, QUIET, command};
use crate::support::eventually;
use crate::support::kms::SEED;
use crate::support::product::Product;
use crate::support::vault::{KEY, Vault};

fn accept(agent: &Agent) -> std::process::Output {
    let mut command = command();
    command.arg("accept-key").arg("--runtime-dir").arg(agent.directory.path().join("run"));
    command.output().unwrap()
}

#[tokio::test]
async fn a_replaced_key_is_refused_until_it_is_accepted() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let mut kms = agent.kms().await;
    let before = kms.round_trip().await;
    let early = accept(&agent);
    assert!(!early.status.success() && String::from_utf8_lossy(&early.stderr).contains("nothing to accept"));
    vault.replace_key().await;
    let status = agent.wait_for_reason("failed", "key_replaced").await;
    assert!(status["line"].as_str().unwrap().contains("accept-key"), "{status}");
    let writes = vault.count(&format!("transit/encrypt/{KEY}"));
    for refused in [kms.status().await.err(), kms.encrypt(&SEED).await.err()] {
        let refused = refused.unwrap();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("another key than before"), "{refused}");
    }
    let (code, body) = agent.admin("GET", "/healthz?verbose").unwrap();
    assert!(code == 503 && body.contains("[-]key failed") && body.contains("[+]vault ok"), "{body}");
    let accepted = accept(&agent);
    assert!(accepted.status.success(), "{accepted:?}");
    agent.wait_for_phase("ready").await;
    let after = kms.round_trip().await;
    assert_ne!(after.key_id, before.key_id, "a key_id is never used for two keys");
    assert!(vault.count(&format!("transit/encrypt/{KEY}")) > writes);
    let lost = kms.decrypt(&before).await.unwrap_err();
    assert_eq!(lost.code(), Code::FailedPrecondition, "{lost}");
}

#[tokio::test]
async fn a_soft_deleted_key_is_reported_and_used_again_once_restored() {
    // HashiCorp Vault has no soft deletion.
    let vault = Vault::start_product(Product::OpenBao).await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let mut kms = agent.kms().await;
    let before = kms.round_trip().await;
    vault.delete(&format!("transit/keys/{KEY}/soft-delete")).await;
    let status = agent.wait_for_phase("failed").await;
    let remedy = status["reason"]["remedy"].as_str().unwrap();
    assert!(remedy.contains("soft-delete-restore"), "{status}");
    assert!(kms.encrypt(&SEED).await.is_err() && kms.decrypt(&before).await.is_err());
    vault.post(&format!("transit/keys/{KEY}/soft-delete-restore"), json!({})).await;
    agent.wait_for_phase("ready").await;
    assert_eq!(kms.decrypt(&before).await.unwrap(), SEED);
    assert_eq!(kms.round_trip().await.key_id, before.key_id);
}

#[tokio::test]
async fn a_key_replaced_while_the_agent_was_down_is_noticed() {
    let vault = Vault::start().await;
    let config = vault.vault_config() + QUICK;
    let agent = Agent::ready(&config).await;
    let directory = agent.kill();
    vault.replace_key().await;
    let agent = Agent::start_in(directory, &config, &[]);
    agent.wait_for_reason("failed", "key_replaced").await;
    // A setting accepts it, too.
    let created = vault.get(&format!("transit/keys/{KEY}")).await["data"]["keys"]["1"].to_string();
    let accepted = [("KMS_PLUGIN_VAULT_TRANSIT_EXPECT_CREATED", created.as_str())];
    let agent = Agent::start_in(agent.kill(), &config, &accepted);
    agent.wait_for_phase("ready").await;
    // The agent remembers that without the setting.
    let agent = Agent::start_in(agent.kill(), &config, &[]);
    agent.wait_for_phase("ready").await;
    agent.kms().await.round_trip().await;
}

#[tokio::test]
async fn nothing_is_written_under_a_replaced_key_before_the_first_read_of_a_new_run() {
    let vault = Vault::start().await;
    let config = vault.vault_config() + QUIET;
    let directory = Agent::ready(&config).await.kill();
    vault.replace_key().await;
    vault.freeze();
    let agent = Agent::start_in(directory, &config, &[]);
    let mut kms = agent.kms().await;
    assert_eq!(kms.status().await.unwrap().healthz, "ok", "Status stays ok during the outage");
    let (writing, ()) = tokio::join!(kms.encrypt(&SEED), async {
        agent.wait_for_call().await;
        vault.thaw();
    });
    let refused = writing.unwrap_err();
    assert!(refused.message().contains("another key") || refused.code() == Code::Unavailable, "{refused}");
    agent.wait_for_reason("failed", "key_replaced").await;
}

#[tokio::test]
async fn a_server_restored_from_before_a_rotation_is_refused_until_it_is_accepted() {
    let vault = Vault::start().await;
    vault
        .post(
            &format!("transit/keys/{KEY}/config"),
            json!({ "exportable": true, "allow_plaintext_backup": true }),
        )
        .await;
    let backup = vault.get(&format!("transit/backup/{KEY}")).await["data"]["backup"].clone();
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let mut kms = agent.kms().await;
    let old = kms.round_trip().await;
    vault.rotate().await;
    let new = eventually("the rotation", async || {
        let key_id = kms.status().await.unwrap().key_id;
        if key_id == old.key_id { Err(key_id) } else { Ok(kms.round_trip().await) }
    })
    .await;
    assert!(new.ciphertext.starts_with(b"vault:v2:"));
    vault.post(&format!("transit/restore/{KEY}"), json!({ "backup": backup, "force": true })).await;
    agent.wait_for_reason("failed", "key_rolled_back").await;
    assert_eq!(kms.encrypt(&SEED).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(kms.decrypt(&old).await.unwrap(), SEED, "what the restored key made stays readable");
    assert!(accept(&agent).status.success());
    agent.wait_for_phase("ready").await;
    assert!(kms.round_trip().await.ciphertext.starts_with(b"vault:v1:"));
}

#[tokio::test]
async fn a_deleted_key_is_reported_and_used_again_once_restored() {
    let vault = Vault::start().await;
    let config = format!("transit/keys/{KEY}/config");
    vault
        .post(
            &config,
            json!({ "exportable": true, "allow_plaintext_backup": true, "deletion_allowed": true }),
        )
        .await;
    let backup = vault.get(&format!("transit/backup/{KEY}")).await["data"]["backup"].clone();
    // With the worst policy: an encrypt request would make the key again.
    vault.put_policy("kms", "path \"transit/*\" { capabilities = [\"create\", \"update\", \"read\"] }").await;
    // No probe: one between the deletion and the next read of the key would make it again.
    let no_probe = "[health]\nkey_check_interval = \"200ms\"\nprobe_interval = \"1h\"\n";
    let agent = Agent::ready(&(vault.vault_config() + no_probe)).await;
    let mut kms = agent.kms().await;
    let before = kms.round_trip().await;
    vault.delete(&format!("transit/keys/{KEY}")).await;
    agent.wait_for_reason("failed", "key_missing").await;
    assert_eq!(kms.encrypt(&SEED).await.unwrap_err().code(), Code::FailedPrecondition);
    assert!(kms.decrypt(&before).await.is_err());
    assert!(kms.status().await.is_err());
    let key = vault
        .request(reqwest::Method::GET, &format!("transit/keys/{KEY}"), serde_json::Value::Null, "")
        .await;
    assert_eq!(key.0, 404, "the deleted key was not made again");
    vault.post(&format!("transit/restore/{KEY}"), json!({ "backup": backup })).await;
    agent.wait_for_phase("ready").await;
    assert_eq!(kms.decrypt(&before).await.unwrap(), SEED);
    assert_eq!(kms.round_trip().await.key_id, before.key_id);
}

#[tokio::test]
async fn a_missing_key_is_never_created() {
    let vault = Vault::start().await;
    // The worst policy: Transit would create the key at the first encrypt.
    vault.put_policy("kms", "path \"transit/*\" { capabilities = [\"create\", \"update\", \"read\"] }").await;
    let config = vault.vault_config().replace(KEY, "no-such-key") + QUICK;
    let agent = Agent::start(&config);
    let status = agent.wait_for_reason("failed", "key_missing").await;
    assert!(status["reason"]["remedy"].as_str().unwrap().contains("vault.transit.key"), "{status}");
    let mut kms = agent.kms().await;
    assert!(kms.encrypt(&SEED).await.is_err());
    let (found, _) =
        vault.request(reqwest::Method::GET, "transit/keys/no-such-key", serde_json::Value::Null, "").await;
    assert_eq!(found, 404);
    assert_eq!(vault.count("transit/encrypt/no-such-key"), 0, "it was not even tried");
}

#[tokio::test]
async fn an_epoch_gives_new_ids_and_reads_the_old_ones() {
    let vault = Vault::start().await;
    let config = vault.vault_config() + QUIET;
    let agent = Agent::ready(&config).await;
    let old = agent.kms().await.round_trip().await;
    let next = [("KMS_PLUGIN_VAULT_TRANSIT_KEY_ID_EPOCH", "1")];
    let agent = Agent::start_in(agent.kill(), &config, &next);
    agent.wait_for_phase("ready").await;
    let mut kms = agent.kms().await;
    let new = kms.round_trip().await;
    assert_ne!(new.key_id, old.key_id);
    assert_eq!(kms.decrypt(&old).await.unwrap(), SEED);
    // All nodes agree: the ids depend on the key alone.
    let other = Agent::ready(&config).await;
    assert_eq!(other.kms().await.round_trip().await.key_id, old.key_id);
    assert_eq!(other.kms().await.decrypt(&new).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn unusable_keys_are_refused_and_risky_settings_are_reported() {
    let vault = Vault::start().await;
    for (name, body, words) in [
        ("signing", json!({ "type": "ed25519" }), "cannot encrypt"),
        ("asymmetric", json!({ "type": "rsa-2048" }), "does not authenticate"),
        ("derived", json!({ "derived": true }), "derived"),
    ] {
        vault.post(&format!("transit/keys/{name}"), body).await;
        vault.put_policy("kms", &crate::support::vault::policy("transit", name)).await;
        let config =
            vault.vault_config().replace(&format!("key = {KEY:?}"), &format!("key = {name:?}")) + QUIET;
        let agent = Agent::start(&config);
        let status = agent.wait_for_reason("failed", "key_unusable").await;
        assert!(status["reason"]["text"].as_str().unwrap().contains(words), "{status}");
        assert!(status["reason"]["remedy"].as_str().unwrap().contains("aes256-gcm96"), "{status}");
    }
    vault.put_policy("kms", &crate::support::vault::policy("transit", KEY)).await;
    let risky = json!({ "exportable": true, "deletion_allowed": true, "allow_plaintext_backup": true });
    vault.post(&format!("transit/keys/{KEY}/config"), risky).await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    for words in ["exportable", "deletion_allowed", "plaintext backup"] {
        agent.wait_for_log(words).await;
    }
    agent.kms().await.round_trip().await;
}

/// With intervals of an hour: `accept-key` reads the key first.
#[tokio::test]
async fn a_change_is_accepted_before_the_agent_has_seen_it() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    vault.replace_key().await;
    let (code, said) = agent.command("accept-key");
    assert!(code == 0 && said.contains("accepted: ready"), "{said}");
    agent.kms().await.round_trip().await;
}
