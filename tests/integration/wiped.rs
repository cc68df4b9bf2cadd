//! What ends the use of the keys in memory: a refusal, within one probe interval, and an outage that lasts
//! longer than is allowed.

use serde_json::json;
use tonic::Code;

use crate::local_kek::{ON, written};
use crate::support::agent::{Agent, QUICK};
use crate::support::bao::{Bao, KEY, policy};
use crate::support::eventually;
use crate::support::kms::SEED;

/// After a refusal, neither what was in memory nor what is new may be used.
async fn refused_in_the_end(bao: &Bao, kind: &str, refuse: impl AsyncFnOnce(&Bao)) -> Agent {
    let agent = Agent::ready(&(bao.vault_config() + QUICK + ON)).await;
    let mut kms = agent.kms().await;
    let wrapped = written(&mut kms).await;
    refuse(bao).await;
    agent.wait_for_reason("failed", kind).await;
    agent.wait_for_log("are wiped: the key service refuses us").await;
    assert!(kms.decrypt(&wrapped).await.is_err(), "{}", agent.log());
    assert!(kms.encrypt(&SEED).await.is_err());
    assert!(kms.status().await.is_err(), "a refusal is not ridden out");
    agent
}

#[tokio::test]
async fn a_policy_that_is_gone_wipes_and_one_that_is_back_heals() {
    let bao = Bao::start().await;
    let agent = refused_in_the_end(&bao, "denied", async |bao| {
        bao.put_policy("kms", &policy("transit", "another-key")).await;
    })
    .await;
    bao.put_policy("kms", &policy("transit", KEY)).await;
    agent.wait_for_phase("ready").await;
    let mut kms = agent.kms().await;
    eventually("a local KEK", async || {
        let wrapped = kms.encrypt(&SEED).await.map_err(|status| status.to_string())?;
        kms.decrypt(&wrapped).await.map_err(|status| status.to_string())
    })
    .await;
}

#[tokio::test]
async fn a_policy_that_grants_nothing_at_all_wipes() {
    let bao = Bao::start().await;
    refused_in_the_end(&bao, "denied", async |bao| {
        bao.put_policy("kms", "path \"nowhere\" { capabilities = [\"read\"] }").await;
    })
    .await;
}

#[tokio::test]
async fn a_revoked_token_with_a_refused_login_wipes() {
    let bao = Bao::start().await;
    refused_in_the_end(&bao, "credentials_refused", async |bao| {
        bao.delete("auth/approle/role/kms").await;
        bao.post("sys/leases/revoke-prefix/auth/approle/login", json!({})).await;
    })
    .await;
}

#[tokio::test]
async fn a_deleted_key_wipes() {
    let bao = Bao::start().await;
    refused_in_the_end(&bao, "key_missing", async |bao| {
        bao.post(&format!("transit/keys/{KEY}/config"), json!({ "deletion_allowed": true })).await;
        bao.delete(&format!("transit/keys/{KEY}")).await;
    })
    .await;
}

#[tokio::test]
async fn a_sealed_server_wipes_where_that_is_a_refusal() {
    let bao = Bao::start().await;
    let config = bao.vault_config() + QUICK + "sealed = \"denied\"\n" + ON;
    let agent = Agent::ready(&config).await;
    let mut kms = agent.kms().await;
    let wrapped = written(&mut kms).await;
    bao.seal().await;
    agent.wait_for_log("are wiped: the key service refuses us").await;
    assert!(kms.decrypt(&wrapped).await.is_err());
    bao.unseal().await;
    agent.wait_for_phase("ready").await;
    assert_eq!(kms.decrypt(&wrapped).await.unwrap(), SEED);
}

#[tokio::test]
async fn a_raised_min_decryption_version_wipes_what_is_below_it() {
    let bao = Bao::start().await;
    let agent = Agent::ready(&(bao.vault_config() + QUICK + ON)).await;
    let mut kms = agent.kms().await;
    let old = written(&mut kms).await;
    bao.rotate().await;
    let new = eventually("the rotation", async || {
        let wrapped = written(&mut kms).await;
        if wrapped.key_id == old.key_id { Err("not yet".into()) } else { Ok(wrapped) }
    })
    .await;
    assert_eq!(kms.decrypt(&old).await.unwrap(), SEED);
    let config = json!({ "min_decryption_version": 2, "min_encryption_version": 2 });
    bao.post(&format!("transit/keys/{KEY}/config"), config).await;
    agent.wait_for_log("min_decryption_version was raised").await;
    let refused = kms.decrypt(&old).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(kms.decrypt(&new).await.unwrap(), SEED);
    written(&mut kms).await;
}

#[tokio::test]
async fn an_outage_longer_than_allowed_wipes_with_the_reason() {
    let bao = Bao::start().await;
    let config = bao.vault_config() + QUICK + ON + "max_offline = \"8s\"\n";
    let agent = Agent::ready(&config).await;
    let mut kms = agent.kms().await;
    let wrapped = written(&mut kms).await;
    bao.freeze();
    agent.wait_for_reason("degraded", "unreachable").await;
    assert_eq!(kms.decrypt(&wrapped).await.unwrap(), SEED);
    agent.wait_for_reason("failed", "unreachable").await;
    let refused = kms.decrypt(&wrapped).await.unwrap_err();
    assert!(refused.message().contains("max_offline (8s)"), "{refused}");
    assert!(refused.message().contains("remedy"), "{refused}");
    let refused = kms.encrypt(&SEED).await.unwrap_err();
    assert!(refused.message().contains("max_offline (8s)"), "{refused}");
    assert!(kms.status().await.unwrap().healthz.contains("remedy"));
    agent.wait_for_log("was not reached for local_kek.max_offline").await;
    bao.thaw();
    agent.wait_for_phase("ready").await;
    assert_eq!(kms.decrypt(&wrapped).await.unwrap(), SEED);
    written(&mut kms).await;
}

/// Writes to `new`, and still reads what was written to `old` under `key`.
fn moved(old: &Bao, key: &str, new: &Bao) -> String {
    format!(
        "{}[[decrypt_only]]\nname = \"old cluster\"\n[decrypt_only.vault]\naddresses = [{:?}]\n{}{QUICK}{ON}",
        new.vault_config(),
        old.address,
        old.key_and_auth("decrypt_only.vault").replace(&format!("{KEY:?}"), &format!("{key:?}")),
    )
}

/// A key service that only unwraps has a say over its own keys, and over no others.
#[tokio::test]
async fn a_refusal_of_one_key_service_wipes_its_keys_alone() {
    let (old, new) = (Bao::start().await, Bao::start().await);
    old.post("transit/keys/older", json!({})).await;
    old.put_policy("kms", &policy("transit", "older")).await;
    let older = old.vault_config().replace(&format!("{KEY:?}"), "\"older\"");
    let written_there = written(&mut Agent::ready(&(older + QUICK + ON)).await.kms().await).await;
    let agent = Agent::ready(&moved(&old, "older", &new)).await;
    let mut kms = agent.kms().await;
    let written_here = written(&mut kms).await;
    eventually("the old cluster's key", async || {
        kms.decrypt(&written_there).await.map_err(|status| status.to_string())
    })
    .await;
    old.freeze();
    assert_eq!(kms.decrypt(&written_there).await.unwrap(), SEED, "an outage there is ridden out");
    old.thaw();
    old.put_policy("kms", &policy("transit", KEY)).await;
    agent.wait_for_log("are wiped: the key service refuses us").await;
    assert!(kms.decrypt(&written_there).await.is_err());
    assert_eq!(kms.decrypt(&written_here).await.unwrap(), SEED);
    written(&mut kms).await;
}

#[tokio::test]
async fn a_soft_deleted_key_wipes_and_one_that_is_brought_back_heals() {
    let bao = Bao::start().await;
    let agent = refused_in_the_end(&bao, "key_missing", async |bao| {
        bao.delete(&format!("transit/keys/{KEY}/soft-delete")).await;
    })
    .await;
    bao.post(&format!("transit/keys/{KEY}/soft-delete-restore"), json!({})).await;
    agent.wait_for_phase("ready").await;
}

/// A replaced key alone wipes nothing: what is in memory may be the only copy. A refusal on top of it does.
#[tokio::test]
async fn a_replaced_key_wipes_nothing_and_does_not_hide_a_refusal() {
    let bao = Bao::start().await;
    let agent = Agent::ready(&(bao.vault_config() + QUICK + ON)).await;
    let mut kms = agent.kms().await;
    let wrapped = written(&mut kms).await;
    bao.replace_key().await;
    agent.wait_for_reason("failed", "key_replaced").await;
    assert_eq!(kms.decrypt(&wrapped).await.unwrap(), SEED, "{}", agent.log());
    assert!(kms.encrypt(&SEED).await.is_err(), "nothing is written under another key");
    bao.put_policy("kms", &policy("transit", "another-key")).await;
    agent.wait_for_log("are wiped: the key service refuses us").await;
    assert!(kms.decrypt(&wrapped).await.is_err());
}

/// Reading the old key is still allowed, unwrapping with it is not.
#[tokio::test]
async fn a_key_service_that_only_unwraps_and_may_no_longer_is_noticed() {
    let (old, new) = (Bao::start().await, Bao::start().await);
    // Of one name, and not of one second: then they would share a key_id.
    new.replace_key().await;
    let written_there =
        written(&mut Agent::ready(&(old.vault_config() + QUICK + ON)).await.kms().await).await;
    let agent = Agent::ready(&moved(&old, KEY, &new)).await;
    let mut kms = agent.kms().await;
    let written_here = written(&mut kms).await;
    eventually("the old cluster's key", async || {
        kms.decrypt(&written_there).await.map_err(|status| status.to_string())
    })
    .await;
    let full = policy("transit", KEY);
    old.put_policy("kms", &full.replace("path \"transit/decrypt", "path \"nowhere/decrypt")).await;
    agent.wait_for_log("are wiped: the key service refuses us").await;
    assert!(kms.decrypt(&written_there).await.is_err());
    // The keys have the same name in both clusters.
    assert_eq!(kms.decrypt(&written_here).await.unwrap(), SEED);
    old.put_policy("kms", &full).await;
    eventually("the old cluster's key", async || {
        kms.decrypt(&written_there).await.map_err(|status| status.to_string())
    })
    .await;
}
