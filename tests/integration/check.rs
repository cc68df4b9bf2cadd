//! `check` of the key service: each fault is found by its own check, with a remedy that works.

use std::fs;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::support::agent::{Agent, QUICK, QUIET, write_config};
use crate::support::checked::check;
use crate::support::fake;
use crate::support::kms::SEED;
use crate::support::product::Product;
use crate::support::proxy::{Mode, Proxy};
use crate::support::vault::{KEY, Vault, policy, write_secret};

/// A directory with this configuration, without an agent.
pub fn node(config: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    write_config(directory.path(), config);
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_node_is_green_before_the_agent_and_beside_it() {
    let vault = Vault::start().await;
    let node = node(&vault.vault_config());
    let before = check(node.path(), &[]);
    before.is_green();
    before.warns(&["socket"], &["no agent runs"]);
    assert_eq!(before.outcomes("policy"), ["ok"; 3]);
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let beside = check(agent.directory.path(), &[]);
    beside.is_green();
    assert_eq!(beside.code, 0, "{beside:#?}");
    assert_eq!((beside.outcomes("agent"), beside.outcomes("round-trip")), (vec!["ok"], vec!["ok"]));
}

/// It uses only rights of the guide's policy, and two requests that may be refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_is_one_login_and_a_bounded_number_of_requests() {
    let vault = Vault::start().await;
    let node = node(&vault.vault_config());
    check(node.path(), &[]).is_green();
    assert_eq!(vault.count("auth/approle/login"), 1);
    assert_eq!((vault.count("transit/encrypt/"), vault.count("transit/decrypt/")), (20, 20));
    assert_eq!((vault.count("transit/keys/"), vault.count("auth/token/lookup-self")), (1, 1));
    assert_eq!((vault.count("sys/capabilities-self"), vault.count("auth/token/revoke-self")), (1, 1));
    let all = vault.audited().into_iter().filter(|path| path != "sys/health").count();
    assert_eq!(all, 45, "{:?}", vault.audited());
    check(node.path(), &["--no-login"]).warns(&["socket"], &["no agent"]);
    assert_eq!(vault.count("auth/approle/login"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_sent_once_and_the_role_is_not_locked() {
    let vault = Vault::start().await;
    let node = node(&vault.vault_config());
    write_secret(&vault.file("secret-id"), "00000000-0000-0000-0000-000000000000");
    check(node.path(), &[]).fails(&["login"], &["400", "write a new secret-id"]);
    for _ in 0..6 {
        check(node.path(), &[])
            .fails(&["login"], &["not sent again for 15 minutes", "write a new secret-id"]);
    }
    assert_eq!(vault.count("auth/approle/login"), 2, "one wrong one, and one without a secret");
    vault.new_secret_id("kms").await;
    check(node.path(), &[]).is_green();
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_a_running_agent_knows_as_refused_are_not_sent() {
    let vault = Vault::start().await;
    let good = fs::read_to_string(vault.file("secret-id")).unwrap();
    write_secret(&vault.file("secret-id"), "00000000-0000-0000-0000-000000000000");
    let agent = Agent::start(&(vault.vault_config() + QUICK));
    agent.wait_for_reason("failed", "credentials_refused").await;
    let sent = vault.count("auth/approle/login");
    let found = check(agent.directory.path(), &[]);
    found.fails(&["login", "agent"], &["credentials of the running agent", "write a new secret-id"]);
    assert_eq!(vault.count("auth/approle/login"), sent);
    write_secret(&vault.file("secret-id"), &good);
    agent.wait_for_phase("ready").await;
    check(agent.directory.path(), &[]).is_green();
}

/// The same secret at another mount is another login: an earlier refusal does not count for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_mount_is_tried_at_once() {
    let vault = Vault::start().await;
    let node = node(&(vault.vault_config() + "mount = \"nowhere\"\n"));
    check(node.path(), &[]).fails(&["login"], &["auth/nowhere", "vault.auth.mount"]);
    check(node.path(), &["--vault-auth-mount", "approle"]).is_green();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_a_root_and_an_expiring_token_are_found() {
    let vault = Vault::start().await;
    let auth = format!("[vault.auth]\nmethod = \"token\"\ntoken_file = {:?}\n", vault.file("token"));
    let config =
        format!("[vault]\naddresses = [{:?}]\n[vault.transit]\nkey = {KEY:?}\n{auth}", vault.address);
    let node = node(&config);
    let token = async |extra: serde_json::Value| {
        let mut body = json!({ "policies": ["kms"], "no_default_policy": true, "ttl": "240h" });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let made = vault.post("auth/token/create", body).await;
        let token = made["auth"]["client_token"].as_str().unwrap().to_owned();
        write_secret(&vault.file("token"), &token);
        token
    };
    let dead = token(json!({})).await;
    check(node.path(), &[]).is_green();
    // A token that somebody else made is not revoked.
    check(node.path(), &[]).is_green();
    vault.post("auth/token/revoke", json!({ "token": dead })).await;
    check(node.path(), &[]).fails(&["login"], &["expired, revoked", "token"]);
    token(json!({ "ttl": "8h" })).await;
    check(node.path(), &[]).warns(&["token", "socket"], &["nobody makes a new token"]);
    token(json!({ "explicit_max_ttl": "10h" })).await;
    check(node.path(), &[]).warns(&["token", "socket"], &["maximum lifetime ends in"]);
    token(json!({ "num_uses": 50 })).await;
    let limited = check(node.path(), &[]);
    limited.warns(&["token", "socket"], &["it allows only"]);
    assert_eq!(limited.outcomes("round-trip"), ["ok"]);
    write_secret(&vault.file("token"), &vault.root);
    check(node.path(), &[]).warns(&["token", "socket"], &["root token", "render policy"]);
    token(json!({})).await;
    check(node.path(), &[]).is_green();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_grants_too_little_or_too_much_is_found() {
    let vault = Vault::start().await;
    let node = node(&vault.vault_config());
    let whole = policy("transit", KEY);
    let without = |operation: &str, capability: &str| {
        let rule = format!("path \"transit/{operation}/{KEY}\" {{ capabilities = [\"{capability}\"] }}");
        assert!(whole.contains(&rule));
        whole.replace(&rule, "")
    };
    let may_ask = "path \"sys/capabilities-self\" { capabilities = [\"update\"] }";
    // The check sees it by using the right, and where it may, by asking for its capabilities.
    for asking in ["", may_ask] {
        for (operation, capability) in [("encrypt", "update"), ("decrypt", "update"), ("keys", "read")] {
            vault.put_policy("kms", &(without(operation, capability) + asking)).await;
            let path = format!("transit/{operation}/{KEY}");
            check(node.path(), &[]).fails(&["policy"], &[&path, &format!("grant {capability}")]);
        }
    }
    vault.put_policy("kms", &whole.replace("lookup-self", "other")).await;
    check(node.path(), &[]).warns(&["token", "socket"], &["lookup-self", "render policy"]);
    let creates = whole.replacen("[\"update\"]", "[\"create\", \"update\"]", 1) + may_ask;
    vault.put_policy("kms", &creates).await;
    check(node.path(), &[])
        .warns(&["policy", "socket"], &["silently creates a new key", "grant only update"]);
    let broad = whole.replacen("[\"read\"]", "[\"read\", \"delete\"]", 1) + may_ask;
    vault.put_policy("kms", &broad).await;
    check(node.path(), &[]).warns(&["policy", "socket"], &["delete", "grant only read"]);
    // The remedy: the policy that `render` writes.
    let rendered = crate::support::agent::command()
        .args(["render", "policy", "--config"])
        .arg(node.path().join("config.toml"))
        .output()
        .unwrap();
    vault.put_policy("kms", &String::from_utf8(rendered.stdout).unwrap()).await;
    check(node.path(), &[]).is_green();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_an_unusable_and_a_risky_key_are_found() {
    let vault = Vault::start().await;
    let node = node(&vault.vault_config());
    let config = format!("transit/keys/{KEY}/config");
    vault.post(&config, json!({ "deletion_allowed": true })).await;
    check(node.path(), &[])
        .warns(&["key", "socket"], &["deletion_allowed=false", "every Secret would be lost"]);
    vault.post(&config, json!({ "deletion_allowed": false })).await;
    check(node.path(), &[]).is_green();
    vault.post(&config, json!({ "deletion_allowed": true })).await;
    vault.delete(&format!("transit/keys/{KEY}")).await;
    check(node.path(), &[]).fails(&["key"], &["404", "nothing is at transit/keys"]);
    // The check does not make a key.
    assert!(
        !vault.audited().iter().any(|path| path.starts_with("transit/encrypt"))
            || vault.count("transit/keys") > 0
    );
    vault.post(&format!("transit/keys/{KEY}"), json!({ "exportable": true })).await;
    check(node.path(), &[]).warns(&["key", "socket"], &["exportable", "cannot be changed back"]);
    for (name, kind, words) in
        [("signing", "ed25519", "cannot encrypt"), ("rsa", "rsa-2048", "does not authenticate")]
    {
        vault.post(&format!("transit/keys/{name}"), json!({ "type": kind })).await;
        vault.put_policy("kms", &policy("transit", name)).await;
        check(node.path(), &["--vault-transit-key", name]).fails(&["key"], &[words, "aes256-gcm96"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_deleted_key_is_found() {
    // HashiCorp Vault has no soft deletion.
    let vault = Vault::start_product(Product::OpenBao).await;
    let node = node(&vault.vault_config());
    vault.post(&format!("transit/keys/{KEY}/config"), json!({ "deletion_allowed": true })).await;
    vault.delete(&format!("transit/keys/{KEY}/soft-delete")).await;
    check(node.path(), &[]).fails(&["key"], &["soft-deleted", "soft-delete-restore"]);
    vault.post(&format!("transit/keys/{KEY}/soft-delete-restore"), json!({})).await;
    vault.post(&format!("transit/keys/{KEY}/config"), json!({ "deletion_allowed": false })).await;
    check(node.path(), &[]).is_green();
}

/// Another key has the same name: with the agent running, and after it was stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_key_is_found() {
    let vault = Vault::start().await;
    let mut agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    vault.replace_key().await;
    let running = check(agent.directory.path(), &[]);
    running.fails(&["key"], &["the key was deleted and created again", "restore the old key"]);
    agent.stop().await;
    let stopped = check(agent.directory.path(), &[]);
    stopped.fails(&["key"], &["the key was deleted and created again", "restore the old key"]);
    let agent = Agent::start_in(agent.kill(), &(vault.vault_config() + QUICK), &[]);
    agent.wait_for_reason("failed", "key_replaced").await;
    check(agent.directory.path(), &[]).fails(&["key", "agent"], &["accept-key"]);
    let (code, said) = agent.command("accept-key");
    assert_eq!(code, 0, "{said}");
    agent.wait_for_phase("ready").await;
    check(agent.directory.path(), &[]).is_green();
}

/// The mistake is in the file, not in the policy: the running agent uses the right name.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_name_beside_a_good_agent_is_found() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let found = check(agent.directory.path(), &["--vault-transit-key", "kms-kez"]);
    found.fails(&["policy"], &["the running agent uses transit/keys/kms-key", "correct vault.transit"]);
    check(agent.directory.path(), &[]).is_green();
}

#[tokio::test(flavor = "multi_thread")]
async fn data_under_a_version_below_the_minimum_is_found() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let old = agent.kms().await.round_trip().await;
    vault.rotate().await;
    let config = format!("transit/keys/{KEY}/config");
    vault.post(&config, json!({ "min_decryption_version": 2 })).await;
    agent.kms().await.decrypt(&old).await.unwrap_err();
    let found = check(agent.directory.path(), &[]);
    found.fails(&["key"], &["min_decryption_version is 2", "min_decryption_version=N"]);
    vault.post(&config, json!({ "min_decryption_version": 1 })).await;
    assert_eq!(agent.kms().await.decrypt(&old).await.unwrap(), SEED);
    crate::support::eventually("the agent sees it", async || {
        let found = check(agent.directory.path(), &[]);
        if found.code == 0 { Ok(()) } else { Err(format!("{found:#?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_and_a_slow_connection_are_found() {
    let vault = Vault::start().await;
    vault.post("sys/quotas/config", json!({ "enable_rate_limit_response_headers": true })).await;
    let quota = async |rate: f64| {
        let body = json!({ "path": "transit/", "rate": rate, "interval": "1h" });
        vault.post("sys/quotas/rate-limit/small", body).await;
    };
    let node = node(&vault.vault_config());
    quota(1.0).await;
    check(node.path(), &[]).fails(&["quota"], &["429", "raise the rate limit quota"]);
    // The check itself may use up to half of the quota without a warning.
    quota(44.0).await;
    check(node.path(), &[]).is_green();
    crate::support::eventually("little is left", async || match check(node.path(), &[]) {
        found if found.outcomes("quota") == ["warn"] => Ok(found),
        found => Err(format!("{found:#?}")),
    })
    .await
    .warns(&["quota", "socket"], &["requests were left", "sys/quotas/rate-limit"]);
    quota(100_000.0).await;
    let green = check(node.path(), &[]);
    green.is_green();
    assert_eq!(green.outcomes("quota"), ["ok"]);
    let proxy = Proxy::before(&vault.address).await;
    proxy.set(Mode::Slow(Duration::from_millis(1100)));
    let slow = vault.vault_config().replace(&vault.address, &proxy.address);
    check(self::node(&slow).path(), &[])
        .warns(&["round-trip", "socket"], &["gives up after 3s", "the network to Vault"]);
    proxy.set(Mode::Pass);
    check(self::node(&slow).path(), &[]).is_green();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapped_secret_id_is_left_for_the_agent() {
    let vault = Vault::start().await;
    let wrapped = vault.wrapped("auth/approle/role/kms/secret-id").await;
    write_secret(&vault.file("secret-id"), &wrapped);
    let config = vault.vault_config() + "secret_id_wrapped = true\n";
    let found = check(node(&config).path(), &[]);
    found.is_green();
    assert_eq!(found.outcomes("login"), ["skipped"]);
    Agent::ready(&(config + QUIET)).await.kms().await.round_trip().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn decrypt_only_services_are_checked_too() {
    let vault = Vault::start().await;
    let other = Vault::start().await;
    let config = vault.vault_config() + &other.decrypt_only("old");
    let node = node(&config);
    let found = check(node.path(), &[]);
    found.is_green();
    assert_eq!((found.outcomes("login").len(), found.outcomes("policy").len()), (2, 5), "{found:#?}");
    other.put_policy("kms", "path \"transit/keys/*\" { capabilities = [\"read\"] }").await;
    let found = check(node.path(), &[]);
    found.fails(&["policy"], &["transit/decrypt", "grant update"]);
    other.put_policy("kms", &policy("transit", KEY)).await;
    check(node.path(), &[]).is_green();
    let page = fake::always(200, "text/html", "<html>We are moving</html>").await;
    let moved = config.replace(&other.address, &page);
    check(self::node(&moved).path(), &[]).fails(&["server"], &["not Vault's", "vault.addresses"]);
}
