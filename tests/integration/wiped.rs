//! What ends the use of the keys in memory: a refusal by the key service, within one probe interval, and an outage
//! longer than `max_offline`.

use serde_json::json;
use tonic::Code;

use crate::local_kek::written;
use crate::support::agent::{Agent, LOCAL_KEK, QUICK};
use crate::support::eventually;
use crate::support::kms::SEED;
use crate::support::product::Product;
use crate::support::vault::{KEY, Vault, policy};

/// After a refusal, neither what was in memory nor what is new may be used.
async fn refused_in_the_end(vault: &Vault, kind: &str, refuse: impl AsyncFnOnce(&Vault)) -> Agent {
    let agent = Agent::ready(&(vault.vault_config() + QUICK + LOCAL_KEK)).await;
    let mut kms = agent.kms().await;
    let wrapped = written(&mut kms).await;
    refuse(vault).await;
    agent.wait_for_reason("failed", kind).await;
    agent.wait_for_log("are wiped: the key service refuses us").await;
    assert!(kms.decrypt(&wrapped).await.is_err(), "{}", agent.log());
    assert!(kms.encrypt(&SEED).await.is_err());
    assert!(kms.status().await.is_err(), "the grace is for outages, not for refusals");
    agent
}

#[tokio::test]
async fn a_lost_policy_wipes_the_keys_and_a_restored_one_allows_new_ones() {
    let vault = Vault::start().await;
    let agent = refused_in_the_end(&vault, "denied", async |vault| {
        vault.put_policy("kms", &policy("transit", "another-key")).await;
    })
    .await;
    vault.put_policy("kms", &policy("transit", KEY)).await;
    agent.wait_for_phase("ready").await;
    let mut kms = agent.kms().await;
    eventually("a local KEK", async || {
        let wrapped = kms.encrypt(&SEED).await.map_err(|status| status.to_string())?;
        kms.decrypt(&wrapped).await.map_err(|status| status.to_string())
    })
    .await;
}

#[tokio::test]
async fn a_policy_that_grants_nothing_wipes_the_keys() {
    let vault = Vault::start().await;
    refused_in_the_end(&vault, "denied", async |vault| {
        vault.put_policy("kms", "path \"nowhere\" { capabilities = [\"read\"] }").await;
    })
    .await;
}

#[tokio::test]
async fn a_revoked_token_with_a_refused_login_wipes_the_keys() {
    let vault = Vault::start().await;
    refused_in_the_end(&vault, "credentials_refused", async |vault| {
        vault.delete("auth/approle/role/kms").await;
        vault.post("sys/leases/revoke-prefix/auth/approle/login", json!({})).await;
    })
    .await;
}

#[tokio::test]
async fn a_deleted_transit_key_wipes_the_keys() {
    let vault = Vault::start().await;
    refused_in_the_end(&vault, "key_missing", async |vault| {
        vault.post(&format!("transit/keys/{KEY}/config"), json!({ "deletion_allowed": true })).await;
        vault.delete(&format!("transit/keys/{KEY}")).await;
    })
    .await;
}

#[tokio::test]
async fn a_sealed_server_wipes_the_keys_where_sealed_is_a_refusal() {
    let vault = Vault::start().await;
    let config = vault.vault_config() + QUICK + "sealed = \"denied\"\n" + LOCAL_KEK;
    let agent = Agent::ready(&config).await;
    let mut kms = agent.kms().await;
    let wrapped = written(&mut kms).await;
    vault.seal().await;
    agent.wait_for_log("are wiped: the key service refuses us").await;
    assert!(kms.decrypt(&wrapped).await.is_err());
    vault.unseal().await;
    agent.wait_for_phase("ready").await;
    assert_eq!(kms.decrypt(&wrapped).await.unwrap(), SEED);
}

#[tokio::test]
async fn a_raised_min_decryption_version_wipes_the_keys_below_it() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK + LOCAL_KEK)).await;
    let mut kms = agent.kms().await;
    let old = written(&mut kms).await;
    vault.rotate().await;
    let new = eventually("the rotation", async || {
        let wrapped = written(&mut kms).await;
        if wrapped.key_id == old.key_id { Err("not yet".into()) } else { Ok(wrapped) }
    })
    .await;
    assert_eq!(kms.decrypt(&old).await.unwrap(), SEED);
    let config = json!({ "min_decryption_version": 2, "min_encryption_version": 2 });
    vault.post(&format!("transit/keys/{KEY}/config"), config).await;
    agent.wait_for_log("min_decryption_version was raised").await;
    let refused = kms.decrypt(&old).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(kms.decrypt(&new).await.unwrap(), SEED);
    written(&mut kms).await;
}

#[tokio::test]
async fn an_outage_longer_than_max_offline_wipes_the_keys() {
    let vault = Vault::start().await;
    let config = vault.vault_config() + QUICK + LOCAL_KEK + "max_offline = \"8s\"\n";
    let agent = Agent::ready(&config).await;
    let mut kms = agent.kms().await;
    let wrapped = written(&mut kms).await;
    vault.freeze();
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
    vault.thaw();
    agent.wait_for_phase("ready").await;
    assert_eq!(kms.decrypt(&wrapped).await.unwrap(), SEED);
    written(&mut kms).await;
}

/// Writes to `new`, and still reads what was written to `old` under `key`.
fn moved(old: &Vault, key: &str, new: &Vault) -> String {
    let old = old.decrypt_only("old cluster").replace(&format!("{KEY:?}"), &format!("{key:?}"));
    new.vault_config() + &old + QUICK + LOCAL_KEK
}

/// A refusal by a decrypt-only service concerns its own keys alone.
#[tokio::test]
async fn a_refusal_of_one_key_service_wipes_only_its_keys() {
    let (old, new) = (Vault::start().await, Vault::start().await);
    old.post("transit/keys/older", json!({})).await;
    old.put_policy("kms", &policy("transit", "older")).await;
    let older = old.vault_config().replace(&format!("{KEY:?}"), "\"older\"");
    let written_there = written(&mut Agent::ready(&(older + QUICK + LOCAL_KEK)).await.kms().await).await;
    let agent = Agent::ready(&moved(&old, "older", &new)).await;
    let mut kms = agent.kms().await;
    let written_here = written(&mut kms).await;
    eventually("the old cluster's key", async || {
        kms.decrypt(&written_there).await.map_err(|status| status.to_string())
    })
    .await;
    old.freeze();
    assert_eq!(kms.decrypt(&written_there).await.unwrap(), SEED, "an outage of that service wipes nothing");
    old.thaw();
    old.put_policy("kms", &policy("transit", KEY)).await;
    agent.wait_for_log("are wiped: the key service refuses us").await;
    assert!(kms.decrypt(&written_there).await.is_err());
    assert_eq!(kms.decrypt(&written_here).await.unwrap(), SEED);
    written(&mut kms).await;
}

#[tokio::test]
async fn a_soft_deleted_key_wipes_the_keys_and_a_restored_one_is_used_again() {
    // HashiCorp Vault has no soft deletion.
    let vault = Vault::start_product(Product::OpenBao).await;
    let agent = refused_in_the_end(&vault, "key_missing", async |vault| {
        vault.delete(&format!("transit/keys/{KEY}/soft-delete")).await;
    })
    .await;
    vault.post(&format!("transit/keys/{KEY}/soft-delete-restore"), json!({})).await;
    agent.wait_for_phase("ready").await;
}

/// A replaced key alone wipes nothing: the keys in memory may be the only copies. A later refusal wipes them.
#[tokio::test]
async fn a_replaced_key_wipes_nothing_until_a_refusal_follows() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK + LOCAL_KEK)).await;
    let mut kms = agent.kms().await;
    let wrapped = written(&mut kms).await;
    vault.replace_key().await;
    agent.wait_for_reason("failed", "key_replaced").await;
    assert_eq!(kms.decrypt(&wrapped).await.unwrap(), SEED, "{}", agent.log());
    assert!(kms.encrypt(&SEED).await.is_err(), "nothing is written under another key");
    vault.put_policy("kms", &policy("transit", "another-key")).await;
    agent.wait_for_log("are wiped: the key service refuses us").await;
    assert!(kms.decrypt(&wrapped).await.is_err());
}

/// The old service still allows to read the key, and no longer to unwrap.
#[tokio::test]
async fn a_decrypt_only_service_that_loses_its_right_is_noticed() {
    let (old, new) = (Vault::start().await, Vault::start().await);
    // Keys of one name from the same second would share a key_id.
    new.replace_key().await;
    let written_there =
        written(&mut Agent::ready(&(old.vault_config() + QUICK + LOCAL_KEK)).await.kms().await).await;
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
