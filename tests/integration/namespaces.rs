//! The namespace of a server that has them. One that is ignored: `only_vault`.

use serde_json::json;

use crate::check::node;
use crate::metrics::scrape;
use crate::support::agent::{Agent, QUICK};
use crate::support::checked::check;
use crate::support::product::Product;
use crate::support::vault::{KEY, Vault, policy, write_secret};

pub const IGNORED: &str = "kms_plugin_namespace_ignored{service=\"primary\"}";

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
