//! Further key services that only unwrap, for a move from one key to another behind one socket.

use serde_json::json;
use tonic::Code;

use crate::support::agent::{Agent, QUICK, QUIET};
use crate::support::eventually;
use crate::support::kms::SEED;
use crate::support::vault::{KEY, Vault, policy};

/// A key_id holds the time when the version was made, in seconds: those of two keys must differ.
async fn another_second() {
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
}

#[tokio::test]
async fn data_of_another_cluster_is_read_where_it_is_named() {
    let old = Vault::start().await;
    another_second().await;
    let new = Vault::start().await;
    let written = Agent::ready(&(old.vault_config() + QUIET)).await.kms().await.round_trip().await;
    let alone = Agent::ready(&(new.vault_config() + QUIET)).await;
    let refused = alone.kms().await.decrypt(&written).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let both = new.vault_config() + &old.decrypt_only("old cluster") + QUIET;
    let agent = Agent::ready(&both).await;
    let mut kms = agent.kms().await;
    assert_eq!(kms.decrypt(&written).await.unwrap(), SEED);
    let fresh = kms.round_trip().await;
    assert_ne!(fresh.key_id, written.key_id);
    assert_eq!(
        old.count(&format!("transit/encrypt/{KEY}")),
        2,
        "the old service only unwraps: its two Encrypts are the probe and the first write"
    );
    let status = agent.status().unwrap();
    assert_eq!(status["decrypt_only"][0]["name"], "old cluster");
}

/// A server that is cut off from its cluster would tell the same key, without the newest version.
#[tokio::test]
async fn data_of_a_later_version_than_the_server_tells_is_not_refused() {
    let (ahead, behind) = (Vault::start().await, Vault::start().await);
    ahead.rotate().await;
    let written = Agent::ready(&(ahead.vault_config() + QUIET)).await.kms().await.round_trip().await;
    let agent = Agent::ready(&(behind.vault_config() + QUICK)).await;
    let mut kms = agent.kms().await;
    let error = kms.decrypt(&written).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(error.message().contains("may be behind") && error.message().contains("decrypt_only"), "{error}");
    assert_eq!(agent.status().unwrap()["unreadable_key_ids"], 1, "it may be another key as well");
    // With that version, it is another key for certain, and counted when it is read again.
    let before = kms.status().await.unwrap().key_id;
    another_second().await;
    behind.rotate().await;
    eventually("the new version", async || match kms.status().await.unwrap().key_id {
        now if now == before => Err(now),
        _ => Ok(()),
    })
    .await;
    kms.status().await.unwrap();
    assert_eq!(agent.status().unwrap()["unreadable_key_ids"], 0);
    let error = kms.decrypt(&written).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    assert_eq!(agent.status().unwrap()["unreadable_key_ids"], 1);
}

/// The same of a key that only unwraps, while the primary has more versions.
#[tokio::test]
async fn data_of_a_later_version_than_a_decrypt_only_server_tells_is_not_refused() {
    let (ahead, behind, primary) = tokio::join!(Vault::start(), Vault::start(), Vault::start());
    ahead.rotate().await;
    let written = Agent::ready(&(ahead.vault_config() + QUIET)).await.kms().await.round_trip().await;
    another_second().await;
    for _ in 0..4 {
        primary.rotate().await;
    }
    let agent = Agent::ready(&(primary.vault_config() + &behind.decrypt_only("old") + QUIET)).await;
    let error = agent.kms().await.decrypt(&written).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(error.message().contains("may be behind"), "{error}");
}

/// The keys of two clusters have the same name and were made in the same second: they share a key_id.
#[tokio::test]
async fn keys_that_share_an_id_are_tried_one_after_the_other() {
    let (old, new) = (Vault::start().await, Vault::start().await);
    let mut twin = String::new();
    for number in 0..20 {
        twin = format!("twin-{number}");
        let path = format!("transit/keys/{twin}");
        tokio::join!(old.post(&path, json!({})), new.post(&path, json!({})));
        let (a, b) = tokio::join!(old.get(&path), new.get(&path));
        if a["data"]["keys"] == b["data"]["keys"] {
            break;
        }
    }
    let of_twin = |config: String| config.replace(&format!("key = {KEY:?}"), &format!("key = {twin:?}"));
    for vault in [&old, &new] {
        vault.put_policy("kms", &policy("transit", &twin)).await;
    }
    let written = Agent::ready(&(of_twin(old.vault_config()) + QUIET)).await.kms().await.round_trip().await;
    let both = of_twin(new.vault_config() + &old.decrypt_only("old cluster")) + QUIET;
    let agent = Agent::ready(&both).await;
    let mut kms = agent.kms().await;
    let fresh = kms.round_trip().await;
    assert_eq!(fresh.key_id, written.key_id, "the keys were made in different seconds");
    assert_eq!(kms.decrypt(&written).await.unwrap(), SEED);
}

#[tokio::test]
async fn another_key_of_the_same_cluster_inherits_the_connection() {
    let vault = Vault::start().await;
    vault.post("transit/keys/older", json!({})).await;
    vault.put_policy("kms", &(policy("transit", KEY) + &policy("transit", "older"))).await;
    let older = vault.vault_config().replace(&format!("{KEY:?}"), "\"older\"");
    let written = Agent::ready(&(older + QUIET)).await.kms().await.round_trip().await;
    let config = format!(
        "{}[[decrypt_only]]\nname = \"older key\"\n[decrypt_only.vault.transit]\nkey = \"older\"\n{QUICK}",
        vault.vault_config()
    );
    let logins = vault.count("auth/approle/login");
    let agent = Agent::ready(&config).await;
    let mut kms = agent.kms().await;
    assert_eq!(kms.decrypt(&written).await.unwrap(), SEED);
    assert_eq!(vault.count("auth/approle/login"), logins + 1, "both keys share one login");
    // A rotation of the older key is followed, too.
    vault.post("transit/keys/older/rotate", json!({})).await;
    eventually("the rotation of the older key", async || {
        let version = agent.status()?["decrypt_only"][0]["key"]["version"].clone();
        if version == 2 { Ok(()) } else { Err(version.to_string()) }
    })
    .await;
    assert_eq!(kms.decrypt(&written).await.unwrap(), SEED);
}

#[tokio::test]
async fn an_unreachable_decrypt_only_service_does_not_disturb_the_primary() {
    let vault = Vault::start().await;
    let unreachable = vault.decrypt_only("gone").replace(&vault.address, "http://127.0.0.1:9");
    let config = vault.vault_config() + &unreachable + QUICK;
    let agent = Agent::ready(&config).await;
    let mut kms = agent.kms().await;
    kms.round_trip().await;
    assert_eq!(kms.status().await.unwrap().healthz, "ok");
    // The unreachable service may know this key_id: the data is not called lost.
    let unknown = kms
        .decrypt_raw(b"vault:v1:AAAA", "v1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::Unavailable, "{unknown}");
    eventually("the problem", async || {
        let problem = agent.status()?["decrypt_only"][0]["problem"].clone();
        if problem.is_string() { Ok(()) } else { Err("none".into()) }
    })
    .await;
}
