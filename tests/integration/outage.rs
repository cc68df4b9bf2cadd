//! Outages: Status stays ok for the grace, also across restarts, and the agent recovers by itself.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::support::agent::{Agent, QUICK, QUIET};
use crate::support::eventually;
use crate::support::kms::SEED;
use crate::support::vault::{KEY, Vault, policy};

const SHORT: &str =
    "[health]\nkey_check_interval = \"200ms\"\nprobe_interval = \"300ms\"\noutage_grace = \"8s\"\n";

#[tokio::test]
async fn status_stays_ok_while_a_killed_server_is_away() {
    let mut vault = Vault::persistent().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let mut kms = agent.kms().await;
    let key_id = kms.round_trip().await.key_id;
    vault.kill();
    let refused = kms.encrypt(&SEED).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let status = agent.wait_for_reason("degraded", "unreachable").await;
    assert!(status["grace_left_seconds"].as_u64().unwrap() > 3500, "{status}");
    assert_eq!(agent.admin("GET", "/healthz").unwrap().0, 503, "the outage is shown at once");
    let told = kms.status().await.unwrap();
    assert_eq!((told.healthz.as_str(), &told.key_id), ("ok", &key_id));
    vault.restart().await;
    agent.wait_for_phase("ready").await;
    assert_eq!(kms.round_trip().await.key_id, key_id);
}

#[tokio::test]
async fn a_sealed_server_is_an_outage_or_a_refusal_as_configured() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let strict = Agent::ready(&(vault.vault_config() + QUICK + "sealed = \"denied\"\n")).await;
    vault.seal().await;
    agent.wait_for_reason("degraded", "sealed").await;
    strict.wait_for_reason("failed", "sealed").await;
    assert_eq!(agent.kms().await.status().await.unwrap().healthz, "ok");
    assert!(strict.kms().await.status().await.is_err());
    vault.unseal().await;
    agent.wait_for_phase("ready").await;
    strict.wait_for_phase("ready").await;
}

#[tokio::test]
async fn after_the_grace_status_says_what_is_wrong_and_keeps_its_key_id() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + SHORT)).await;
    let mut kms = agent.kms().await;
    let key_id = kms.status().await.unwrap().key_id;
    vault.freeze();
    agent.wait_for_reason("degraded", "unreachable").await;
    assert_eq!(kms.status().await.unwrap().healthz, "ok");
    agent.wait_for_reason("failed", "unreachable").await;
    let status = kms.status().await.unwrap();
    assert_eq!(status.key_id, key_id);
    assert!(status.healthz.contains("remedy"), "{}", status.healthz);
    vault.thaw();
    agent.wait_for_phase("ready").await;
    assert_eq!(kms.status().await.unwrap().healthz, "ok");
}

#[tokio::test]
async fn a_restart_in_an_outage_keeps_the_key_id_and_the_old_deadline() {
    let vault = Vault::start().await;
    let config = vault.vault_config() + &SHORT.replace("8s", "60s");
    let agent = Agent::ready(&config).await;
    let key_id = agent.kms().await.status().await.unwrap().key_id;
    vault.freeze();
    let status = agent.wait_for_reason("degraded", "unreachable").await;
    let left = status["grace_left_seconds"].as_u64().unwrap();
    let agent = Agent::start_in(agent.kill(), &config, &[]);
    let mut kms = agent.kms().await;
    let told = kms.status().await.unwrap();
    assert_eq!((told.healthz.as_str(), &told.key_id), ("ok", &key_id));
    let status = agent.wait_for_phase("degraded").await;
    assert!(status["grace_left_seconds"].as_u64().unwrap() <= left, "the grace is not extended: {status}");
    // Without what was saved, there is nothing to announce.
    let directory = agent.kill();
    std::fs::remove_file(directory.path().join("run/identity.json")).unwrap();
    let agent = Agent::start_in(directory, &config, &[]);
    let refused = agent.kms().await.status().await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    vault.thaw();
    agent.wait_for_phase("ready").await;
}

#[tokio::test]
async fn a_policy_that_loses_a_right_is_reported_without_new_logins() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let mut kms = agent.kms().await;
    let full = crate::support::vault::policy("transit", crate::support::vault::KEY);
    vault.put_policy("kms", &full.replace("path \"transit/keys", "path \"nowhere/keys")).await;
    agent.wait_for_reason("degraded", "key_unreadable").await;
    kms.round_trip().await;
    vault.put_policy("kms", &full.replace("path \"transit/encrypt", "path \"nowhere/encrypt")).await;
    let status = agent.wait_for_reason("failed", "denied").await;
    assert!(status["reason"]["remedy"].as_str().unwrap().contains("transit/encrypt"), "{status}");
    for _ in 0..20 {
        assert_eq!(kms.encrypt(&SEED).await.unwrap_err().code(), Code::PermissionDenied);
    }
    assert_eq!(vault.count("auth/approle/login"), 1, "a missing right is no reason to log in again");
    assert_eq!(kms.status().await.unwrap_err().code(), Code::FailedPrecondition);
    vault.put_policy("kms", &full).await;
    agent.wait_for_phase("ready").await;
    kms.round_trip().await;
}

/// Without `lookup-self` the agent cannot tell a refusal from an expired token. It must not log in again and again, and
/// must not take the wait between two logins for an outage.
#[tokio::test]
async fn a_policy_that_grants_nothing_is_a_refusal_without_repeated_logins() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let mut kms = agent.kms().await;
    let full = policy("transit", KEY);
    let without_lookup = full.replace("auth/token/lookup-self", "nowhere");
    let only_the_key = format!("path \"transit/keys/{KEY}\" {{ capabilities = [\"read\"] }}");
    for left in ["path \"nowhere\" { capabilities = [\"read\"] }", &only_the_key] {
        let before = vault.count("auth/approle/login");
        vault.put_policy("kms", left).await;
        agent.wait_for_reason("failed", "denied").await;
        // Every call is refused for as long.
        for _ in 0..20 {
            assert_eq!(kms.encrypt(&SEED).await.unwrap_err().code(), Code::PermissionDenied);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(agent.status().unwrap()["phase"], "failed", "{}", agent.log());
        let logins = vault.count("auth/approle/login") - before;
        assert!(logins <= 3, "{logins} logins: {}", agent.log());
        vault.put_policy("kms", &without_lookup).await;
        agent.wait_for_phase("ready").await;
        kms.round_trip().await;
    }
    // A revoked token is still recognised.
    vault.post("sys/leases/revoke-prefix/auth/approle/login", serde_json::json!({})).await;
    kms.round_trip().await;
}

#[tokio::test]
async fn losing_only_decrypt_is_a_refusal_too() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let full = crate::support::vault::policy("transit", crate::support::vault::KEY);
    vault.put_policy("kms", &full.replace("path \"transit/decrypt", "path \"nowhere/decrypt")).await;
    let status = agent.wait_for_reason("failed", "denied").await;
    assert!(status["reason"]["remedy"].as_str().unwrap().contains("transit/decrypt"), "{status}");
    vault.put_policy("kms", &full).await;
    agent.wait_for_phase("ready").await;
}

#[tokio::test]
async fn a_restart_without_the_right_to_read_the_key_goes_on_writing() {
    let vault = Vault::start().await;
    let config = vault.vault_config() + QUICK;
    let agent = Agent::ready(&config).await;
    let key_id = agent.kms().await.round_trip().await.key_id;
    let full = crate::support::vault::policy("transit", crate::support::vault::KEY);
    vault.put_policy("kms", &full.replace("path \"transit/keys", "path \"nowhere/keys")).await;
    let agent = Agent::start_in(agent.kill(), &config, &[]);
    agent.wait_for_reason("degraded", "key_unreadable").await;
    assert_eq!(agent.kms().await.round_trip().await.key_id, key_id);
    assert_eq!(agent.kms().await.status().await.unwrap().healthz, "ok");
}

/// What docs/operations.md says for an outage that outlasts the grace.
#[tokio::test]
async fn a_longer_grace_and_a_restart_bring_status_back_in_an_outage() {
    let vault = Vault::start().await;
    let config = vault.vault_config() + QUICK;
    let short = format!("{config}outage_grace = \"1s\"\n");
    let agent = Agent::ready(&short).await;
    vault.freeze();
    eventually("the grace is over", async || {
        let status = agent.status()?;
        if status["kms_status"] == "unhealthy" { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let mut agent = agent;
    agent.stop().await;
    let directory = agent.kill();
    let agent = Agent::start_in(directory, &format!("{config}outage_grace = \"unlimited\"\n"), &[]);
    let status = agent.wait_for_phase("degraded").await;
    assert_eq!(status["kms_status"], "ok", "{status}");
    vault.thaw();
    agent.wait_for_phase("ready").await;
}

/// With intervals of an hour: the outcome of a call starts a recheck at once, and many such calls do not delay the next
/// recheck.
#[tokio::test]
async fn a_refused_call_and_the_next_good_one_start_a_recheck_at_once() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let mut kms = agent.kms().await;
    for refused in [1, 200, 1] {
        vault.put_policy("kms", &policy("transit", "another-key")).await;
        for _ in 0..refused {
            assert_eq!(kms.encrypt(&SEED).await.unwrap_err().code(), Code::PermissionDenied);
        }
        agent.wait_for_reason("failed", "denied").await;
        vault.put_policy("kms", &policy("transit", KEY)).await;
        eventually("a call that works", async || {
            kms.encrypt(&SEED).await.map(drop).map_err(|status| status.to_string())
        })
        .await;
        agent.wait_for_phase("ready").await;
    }
}

/// A caller that goes away before the answer says as much as a call that timed out. Without it, the next look at the
/// health would come ten seconds after the start.
#[tokio::test]
async fn a_call_that_its_caller_gives_up_starts_a_look_at_once() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let mut kms = agent.kms().await;
    kms.round_trip().await;
    vault.freeze();
    let frozen = Instant::now();
    let given_up = tokio::time::timeout(Duration::from_millis(300), kms.encrypt(&SEED)).await;
    assert!(given_up.is_err(), "{given_up:?}");
    agent.wait_for_reason("degraded", "unreachable").await;
    assert!(frozen.elapsed() < Duration::from_secs(6), "{:?}\n{}", frozen.elapsed(), agent.log());
    vault.thaw();
    agent.wait_for_phase("ready").await;
}
