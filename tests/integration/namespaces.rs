//! The namespace of a server that has them. One that is ignored: `only_vault`.

use serde_json::json;

use crate::causes::told;
use crate::check::node;
use crate::metrics::scrape;
use crate::support::agent::{Agent, QUICK};
use crate::support::checked::check;
use crate::support::product::Product;
use crate::support::vault::{KEY, Vault, policy, write_secret};

pub const IGNORED: &str = "kms_plugin_namespace_ignored{service=\"primary\"}";

/// A server with a namespace `team` that has the key, and a configuration that uses it there.
async fn in_team() -> (Vault, String) {
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
    (vault, config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_of_a_server_that_has_them_gives_no_warning() {
    let (_vault, config) = in_team().await;
    let agent = Agent::ready(&(config.clone() + QUICK)).await;
    agent.kms().await.round_trip().await;
    assert_eq!(scrape(&agent)[IGNORED], 0.0);
    assert!(agent.status().unwrap()["primary"]["ignored_namespace"].is_null());
    check(node(&config).path(), &[]).is_green();
}

/// The namespace exists, and the token is one of another: no policy is to blame.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_the_token_is_not_of_is_named() {
    let (vault, _) = in_team().await;
    let words = ["nothing in the namespace team", "the root namespace", "correct vault.namespace"];
    let login_elsewhere = "namespace = \"team\"\nauth_namespace = \"\"\n[vault.transit]";
    let config = vault.vault_config().replace("[vault.transit]", login_elsewhere);
    told(&config, "wrong_setting", "key", &words).await;
    // The namespace of the key does not exist; that of the login does.
    let nowhere = config.replace("\"team\"", "\"nowhere\"");
    told(&nowhere, "wrong_setting", "key", &["no such namespace", "correct vault.namespace"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_namespace_is_not_a_matter_of_a_policy() {
    let (vault, config) = in_team().await;
    vault.post("sys/namespaces/api-lock/lock/team", json!({})).await;
    told(&config, "login_denied", "login", &["locked by an administrator", "unlock the namespace"]).await;
}
