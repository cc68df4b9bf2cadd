//! What HashiCorp Vault does and OpenBao does not. Vault takes minutes to build, so these tests run where it is the chosen
//! server; the corpus plays the same words to every build.

use crate::check::node;
use crate::metrics::scrape;
use crate::namespaces::IGNORED;
use crate::support::agent::{Agent, QUICK, QUIET};
use crate::support::checked::check;
use crate::support::eventually;
use crate::support::kms::{DEADLINE, SEED};
use crate::support::product::Product;
use crate::support::vault::Vault;

fn in_namespace(config: &str, namespace: &str) -> String {
    config.replace("[vault.transit]", &format!("namespace = {namespace:?}\n[vault.transit]"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs HashiCorp Vault: KMS_PLUGIN_TESTS_SERVER=vault tests/run"]
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
    let login_only = plain.replace("[vault.transit]", "auth_namespace = \"nowhere\"\n[vault.transit]");
    let told = ["ignores vault.auth_namespace", "remove vault.auth_namespace"];
    check(node(&login_only).path(), &[]).fails(&["server"], &told);

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

/// `invalid token` is a dead token: the next call logs in at once, and needs no lookup.
#[tokio::test]
#[ignore = "needs HashiCorp Vault: KMS_PLUGIN_TESTS_SERVER=vault tests/run"]
async fn a_token_that_the_server_calls_invalid_is_replaced_at_once() {
    let vault = Vault::start_product(Product::Vault).await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let mut kms = agent.kms().await.within(DEADLINE);
    kms.round_trip().await;
    let before = vault.count("auth/token/lookup-self");
    vault.revoke_approle_tokens().await;
    kms.round_trip().await;
    assert_eq!(vault.count("auth/approle/login"), 2);
    assert_eq!(vault.count("auth/token/lookup-self"), before);
    assert_eq!(agent.status().unwrap()["phase"], "ready");
}
