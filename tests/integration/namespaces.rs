//! A namespace that the server ignores, since it has none.

use serde_json::json;

use crate::check::node;
use crate::metrics::scrape;
use crate::support::agent::{Agent, QUICK, QUIET};
use crate::support::checked::check;
use crate::support::eventually;
use crate::support::kms::SEED;
use crate::support::product::Product;
use crate::support::vault::{KEY, Vault, policy, write_secret};

const IGNORED: &str = "kms_plugin_namespace_ignored{service=\"primary\"}";

fn in_namespace(config: &str, namespace: &str) -> String {
    config.replace("[vault.transit]", &format!("namespace = {namespace:?}\n[vault.transit]"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_ignored_is_told_everywhere_and_can_be_left() {
    let vault = Vault::start_product(Product::Vault).await;
    let plain = vault.vault_config();
    let config = in_namespace(&plain, "nowhere");
    let agent = Agent::ready(&(config.clone() + QUICK)).await;
    let status = eventually("the warning", async || {
        let status = agent.status()?;
        if status["primary"]["ignored_namespace"].is_null() { Err(status.to_string()) } else { Ok(status) }
    })
    .await;
    let warning = &status["primary"]["ignored_namespace"];
    assert!(warning["text"].as_str().unwrap().contains("ignores vault.namespace = \"nowhere\""), "{warning}");
    assert!(warning["remedy"].as_str().unwrap().contains("decrypt_only"), "{warning}");
    assert_eq!(status["phase"], "ready");
    assert!(status["line"].as_str().unwrap().contains("ignores the namespace"), "{status}");
    let (code, verbose) = agent.admin("GET", "/healthz?verbose").unwrap();
    assert!(code == 200 && verbose.contains("namespace: primary: the server has no namespaces"), "{verbose}");
    assert_eq!(scrape(&agent)[IGNORED], 1.0);
    assert_eq!(agent.log().matches("ignores vault.namespace").count(), 1, "one line: {}", agent.log());
    let (_, shown) = agent.command("status");
    assert!(shown.contains("ignores vault.namespace"), "{shown}");
    // Reads and writes go on, under the same key_id.
    let written = agent.kms().await.round_trip().await;
    check(node(&config).path(), &[]).fails(&["server"], &["ignores vault.namespace", "decrypt_only"]);

    // How to leave it: the key without namespace is a decrypt_only first, then they change places.
    let other = |name: &str, namespace: &str| {
        vault
            .decrypt_only(name)
            .replace("[decrypt_only.vault]\n", &format!("[decrypt_only.vault]\nnamespace = {namespace:?}\n"))
    };
    let first = Agent::ready(&(config + &other("after", "") + QUIET)).await;
    let moved = Agent::ready(&(plain + &other("before", "nowhere") + QUIET)).await;
    let (mut first, mut moved) = (first.kms().await, moved.kms().await);
    let rewritten = moved.round_trip().await;
    assert_ne!(rewritten.key_id, written.key_id);
    assert_eq!(moved.decrypt(&written).await.unwrap(), SEED);
    assert_eq!(first.decrypt(&rewritten).await.unwrap(), SEED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_of_a_server_that_has_them_gives_no_warning() {
    let vault = Vault::start_product(Product::OpenBao).await;
    vault.post("sys/namespaces/team", json!({})).await;
    vault.post_in("team", "sys/mounts/transit", json!({ "type": "transit" })).await;
    vault.post_in("team", &format!("transit/keys/{KEY}"), json!({})).await;
    vault.post_in("team", "sys/policies/acl/kms", json!({ "policy": policy("transit", KEY) })).await;
    let token = json!({ "policies": ["kms"], "no_default_policy": true, "period": "24h" });
    let token = vault.post_in("team", "auth/token/create", token).await;
    write_secret(&vault.file("token"), token["auth"]["client_token"].as_str().unwrap());
    let config = format!(
        "[vault]\naddresses = [{:?}]\nnamespace = \"team\"\n[vault.transit]\nkey = {KEY:?}\n[vault.auth]\nmethod = \"token\"\ntoken_file = {:?}\n",
        vault.address,
        vault.file("token")
    );
    let agent = Agent::ready(&(config.clone() + QUICK)).await;
    agent.kms().await.round_trip().await;
    assert_eq!(scrape(&agent)[IGNORED], 0.0);
    assert!(agent.status().unwrap()["primary"]["ignored_namespace"].is_null());
    check(node(&config).path(), &[]).is_green();
}
