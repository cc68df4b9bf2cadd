//! Further key services that only unwrap: from one key to another behind one socket.

use serde_json::json;
use tonic::Code;

use crate::support::agent::{Agent, QUICK, QUIET};
use crate::support::bao::{Bao, KEY, policy};
use crate::support::eventually;
use crate::support::kms::SEED;

#[tokio::test]
async fn data_of_another_cluster_is_read_where_it_is_named() {
    let (old, new) = (Bao::start().await, Bao::start().await);
    let written = Agent::ready(&(old.vault_config() + QUIET)).await.kms().await.round_trip().await;
    let alone = Agent::ready(&(new.vault_config() + QUIET)).await;
    let refused = alone.kms().await.decrypt(&written).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let both = format!(
        "{}[[decrypt_only]]\nname = \"old cluster\"\n[decrypt_only.vault]\naddresses = [{:?}]\n{}{QUIET}",
        new.vault_config(),
        old.address,
        old.key_and_auth("decrypt_only.vault"),
    );
    let agent = Agent::ready(&both).await;
    let mut kms = agent.kms().await;
    assert_eq!(kms.decrypt(&written).await.unwrap(), SEED);
    let fresh = kms.round_trip().await;
    assert_ne!(fresh.key_id, written.key_id);
    assert_eq!(
        old.count(&format!("transit/encrypt/{KEY}")),
        2,
        "the old one only unwraps: a probe and the first write"
    );
    let status = agent.status().unwrap();
    assert_eq!(status["decrypt_only"][0]["name"], "old cluster");
}

#[tokio::test]
async fn another_key_of_the_same_cluster_inherits_the_connection() {
    let bao = Bao::start().await;
    bao.post("transit/keys/older", json!({})).await;
    bao.put_policy("kms", &(policy("transit", KEY) + &policy("transit", "older"))).await;
    let older = bao.vault_config().replace(&format!("{KEY:?}"), "\"older\"");
    let written = Agent::ready(&(older + QUIET)).await.kms().await.round_trip().await;
    let config = format!(
        "{}[[decrypt_only]]\nname = \"older key\"\n[decrypt_only.vault.transit]\nkey = \"older\"\n{QUICK}",
        bao.vault_config()
    );
    let agent = Agent::ready(&config).await;
    let mut kms = agent.kms().await;
    assert_eq!(kms.decrypt(&written).await.unwrap(), SEED);
    // A rotation of the older key is followed, too.
    bao.post("transit/keys/older/rotate", json!({})).await;
    eventually("the rotation of the older key", async || {
        let version = agent.status()?["decrypt_only"][0]["key"]["version"].clone();
        if version == 2 { Ok(()) } else { Err(version.to_string()) }
    })
    .await;
    assert_eq!(kms.decrypt(&written).await.unwrap(), SEED);
}

#[tokio::test]
async fn a_dead_one_does_not_disturb_the_primary() {
    let bao = Bao::start().await;
    let config = format!(
        "{}[[decrypt_only]]\nname = \"gone\"\n[decrypt_only.vault]\naddresses = [\"http://127.0.0.1:9\"]\n{}{QUICK}",
        bao.vault_config(),
        bao.key_and_auth("decrypt_only.vault"),
    );
    let agent = Agent::ready(&config).await;
    let mut kms = agent.kms().await;
    kms.round_trip().await;
    assert_eq!(kms.status().await.unwrap().healthz, "ok");
    eventually("the problem", async || {
        let problem = agent.status()?["decrypt_only"][0]["problem"].clone();
        if problem.is_string() { Ok(()) } else { Err("none".into()) }
    })
    .await;
}
