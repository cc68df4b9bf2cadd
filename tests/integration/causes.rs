//! The true cause of a refusal, from the agent and from `check`, and no remedy that leads elsewhere.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::check::node;
use crate::support::agent::{Agent, LOCAL_KEK, QUICK, QUIET};
use crate::support::checked::check;
use crate::support::kms::SEED;
use crate::support::vault::{KEY, Vault, policy, write_secret};

/// A role of its own with `extra` settings, and a configuration that logs in with it.
async fn role(vault: &Vault, name: &str, extra: Value) -> String {
    let mut body = json!({ "token_policies": "kms", "token_no_default_policy": true, "token_ttl": "1h" });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    vault.post(&format!("auth/approle/role/{name}"), body).await;
    let role_id = vault.get(&format!("auth/approle/role/{name}/role-id")).await;
    let secret_id = vault.post(&format!("auth/approle/role/{name}/secret-id"), json!({})).await;
    let (role_file, secret_file) =
        (vault.file(&format!("role-id-{name}")), vault.file(&format!("secret-id-{name}")));
    fs::write(&role_file, role_id["data"]["role_id"].as_str().unwrap()).unwrap();
    write_secret(&secret_file, secret_id["data"]["secret_id"].as_str().unwrap());
    format!(
        "[vault]\naddresses = [{:?}]\n[vault.transit]\nkey = {KEY:?}\n[vault.auth]\nmethod = \"approle\"\nrole_id_file = {role_file:?}\nsecret_id_file = {secret_file:?}\n",
        vault.address
    )
}

/// The agent fails with this kind of reason, whose text and remedy say all these words; `check` says them in `finding`.
/// Neither says any of what leads elsewhere.
pub async fn told(config: &str, kind: &str, finding: &str, words: &[&str]) {
    let checked = check(node(config).path(), &[]);
    checked.says(finding, "fail", words);
    let agent = Agent::start(&(config.to_owned() + QUICK));
    let reason = agent.wait_for_reason("failed", kind).await["reason"].to_string();
    assert!(words.iter().all(|word| reason.contains(word)), "{words:?} in {reason}");
    if kind != "denied" {
        let line = agent.status().unwrap()["line"].as_str().unwrap().to_owned();
        for text in [reason, line, format!("{:?}", checked.findings)] {
            assert!(!text.contains("render policy") && !text.contains("grant the"), "{kind}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_true_cause() {
    let vault = Vault::start().await;
    let elsewhere = "192.0.2.0/24";
    let far_token = role(&vault, "far-token", json!({ "token_bound_cidrs": elsewhere })).await;
    let far_secret = role(&vault, "far-secret", json!({ "secret_id_bound_cidrs": elsewhere })).await;
    let deleted = role(&vault, "deleted", json!({})).await;
    vault.delete("auth/approle/role/deleted").await;
    let no_mount = role(&vault, "other-mount", json!({})).await;
    let no_mount = no_mount.replace("[vault.auth]", "[vault.auth]\nmount = \"approll\"");
    let no_transit = role(&vault, "other-transit", json!({})).await;
    let no_transit = no_transit.replace("[vault.transit]", "[vault.transit]\nmount = \"transot\"");
    vault.post("sys/mounts/secret", json!({ "type": "kv" })).await;
    vault.put_policy("kv", &policy("secret", KEY)).await;
    let kv = role(&vault, "kv", json!({ "token_policies": "kv" })).await;
    let kv = kv.replace("[vault.transit]", "[vault.transit]\nmount = \"secret\"");
    vault.post("sys/mounts/versioned", json!({ "type": "kv", "options": { "version": "2" } })).await;
    vault.put_policy("kv2", &policy("versioned", KEY)).await;
    let kv2 = role(&vault, "kv2", json!({ "token_policies": "kv2" })).await;
    let kv2 = kv2.replace("[vault.transit]", "[vault.transit]\nmount = \"versioned\"");
    let limited = policy("transit", KEY).replacen(
        "[\"update\"] }",
        "[\"update\"]\n allowed_parameters = { \"plaintext\" = [] } }",
        1,
    );
    vault.put_policy("limited", &limited).await;
    let parameters = role(&vault, "parameters", json!({ "token_policies": "limited" })).await;
    let disabled = role(&vault, "disabled", json!({})).await;
    disable_entity(&vault, "disabled").await;

    tokio::join!(
        told(&far_token, "login_denied", "token", &["does not accept the token", "token_bound_cidrs"]),
        told(&far_secret, "wrong_setting", "login", &["CIDR restrictions", "secret_id_bound_cidrs"]),
        told(&deleted, "credentials_refused", "login", &["knows no role with this role-id"]),
        told(&no_mount, "wrong_setting", "login", &["no login method", "correct vault.auth.mount"]),
        told(&no_transit, "wrong_setting", "key", &["Transit mount transit", "correct vault.transit.mount"]),
        told(&kv, "key_missing", "key", &["a mount of type kv is at secret", "correct vault.transit.mount"]),
        told(&kv2, "wrong_setting", "key", &["versioned K/V secrets engine", "correct vault.transit.mount"]),
        told(&parameters, "denied", "policy", &["not the parameters", "remove allowed_parameters"]),
        told(&disabled, "login_denied", "login", &["denies this login", "entity of this login is disabled"]),
    );
}

/// Disables the entity of a role that has logged in.
async fn disable_entity(vault: &Vault, role: &str) {
    let read = |file: &str| fs::read_to_string(vault.file(&format!("{file}-{role}"))).unwrap();
    let login = json!({ "role_id": read("role-id"), "secret_id": read("secret-id") });
    let login = vault.post("auth/approle/login", login).await;
    let entity = login["auth"]["entity_id"].as_str().unwrap();
    vault.post(&format!("identity/entity/id/{entity}"), json!({ "disabled": true })).await;
}

/// Locks the role as another node with a wrong secret-id does.
async fn lock(vault: &Vault, role_id: &str) {
    for _ in 0..6 {
        let wrong = json!({ "role_id": role_id, "secret_id": "00000000-0000-4000-8000-000000000000" });
        vault.request(reqwest::Method::POST, "auth/approle/login", wrong, "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_out_by_another_node_is_no_refusal_and_wipes_nothing() {
    let vault = Vault::start().await;
    let config = role(&vault, "shared", json!({})).await;
    let agent = Agent::ready(&(config.clone() + LOCAL_KEK + QUICK)).await;
    let mut kms = agent.kms().await;
    let written = kms.round_trip().await;
    let role_id = fs::read_to_string(vault.file("role-id-shared")).unwrap();
    lock(&vault, &role_id).await;
    let before = vault.count("auth/approle/login");
    vault.revoke_approle_tokens().await;
    let status = agent.wait_for_reason("degraded", "locked_out").await;
    let reason = status["reason"].to_string();
    assert!(reason.contains("locked this login") && reason.contains("sys/locked-users"), "{reason}");
    assert!(!reason.contains("policy"), "{reason}");
    // Longer than the confirmation of a refusal.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let status = agent.status().unwrap();
    assert_eq!((&status["phase"], &status["kms_status"]), (&json!("degraded"), &json!("ok")), "{status}");
    assert!(status["offline"]["keks"].as_u64().unwrap() > 0, "{status}");
    assert_eq!(kms.decrypt(&written).await.unwrap(), SEED, "the local KEK is still used");
    let asked = vault.count("auth/approle/login") - before;
    assert_eq!(asked, 3, "one login in a minute, and two without a secret");
    check(node(&config).path(), &[]).says("login", "fail", &["locked this login", "locked-users"]);

    // A wrong secret-id behind the lock-out is a refusal when the lock-out has ended: the server looks at it then.
    let mounts = vault.get("sys/auth").await;
    let accessor = mounts["data"]["approle/"]["accessor"].as_str().unwrap().to_owned();
    vault.post(&format!("sys/locked-users/{accessor}/unlock/{role_id}"), json!({})).await;
    let secret_file = vault.file("secret-id-shared");
    let right = fs::read_to_string(&secret_file).unwrap();
    write_secret(&secret_file, "00000000-0000-4000-8000-000000000001");
    let status = agent.wait_for_reason("failed", "credentials_refused").await;
    assert!(!status["reason"].to_string().contains("knows no role"), "{status}");
    write_secret(&secret_file, &right);
    agent.wait_for_phase("ready").await;
    assert_eq!(kms.decrypt(&written).await.unwrap(), SEED);
}

/// Asking without a secret does not lock the role: it is not a wrong login.
#[tokio::test]
async fn logins_without_a_secret_are_not_counted_as_wrong() {
    let vault = Vault::start().await;
    let role_id = fs::read_to_string(vault.file("role-id")).unwrap();
    for body in [json!({}), json!({ "role_id": role_id })] {
        for _ in 0..10 {
            vault.request(reqwest::Method::POST, "auth/approle/login", body.clone(), "").await;
        }
    }
    Agent::ready(&(vault.vault_config() + QUIET)).await;
}
