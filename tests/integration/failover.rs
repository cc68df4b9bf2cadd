//! Several addresses of one cluster, and what can be wrong with one of them.

use serde_json::json;

use crate::support::agent::{Agent, QUICK, QUIET};
use crate::support::eventually;
use crate::support::fake;
use crate::support::kms::SEED;
use crate::support::product::Product;
use crate::support::proxy::{Mode, Proxy};
use crate::support::vault::{KEY, Vault, policy};

/// The server's configuration with other addresses.
fn config(vault: &Vault, addresses: &[&str]) -> String {
    vault.vault_config().replace(&format!("[{:?}]", vault.address), &format!("{addresses:?}"))
}

#[tokio::test]
async fn a_dead_first_address_costs_one_try_and_the_good_one_is_remembered() {
    let vault = Vault::start().await;
    let dead = "http://127.0.0.1:9";
    let agent = Agent::ready(&(config(&vault, &[dead, &vault.address]) + QUIET)).await;
    agent.kms().await.round_trip().await;
    let status = agent.status().unwrap();
    let addresses = &status["primary"]["addresses"];
    assert_eq!(
        (&addresses[0]["reachable"], &addresses[1]["reachable"]),
        (&json!(false), &json!(true)),
        "{status}"
    );
    assert_eq!(addresses[1]["preferred"], true);
    let (code, verbose) = agent.admin("GET", "/healthz?verbose").unwrap();
    assert_eq!(code, 200);
    assert!(
        verbose.contains(&format!("[-]primary/{dead} failed"))
            && verbose.contains(&format!("[+]primary/{} ok", vault.address)),
        "{verbose}"
    );
}

#[tokio::test]
async fn a_hanging_preferred_address_leaves_time_for_the_next() {
    let hanging = Vault::start().await;
    let vault = Vault::start().await;
    hanging.freeze();
    let agent = Agent::ready(&(config(&vault, &[&hanging.address, &vault.address]) + QUICK)).await;
    agent.kms().await.round_trip().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_recovers_is_reported_while_another_serves() {
    let vault = Vault::start().await;
    let proxy = Proxy::before(&vault.address).await;
    let agent = Agent::ready(&(config(&vault, &[&proxy.address, &vault.address]) + QUICK)).await;
    let first = async |reachable: bool| {
        eventually("the first address", async || {
            agent.kms().await.round_trip().await;
            let status = agent.status()?;
            let seen = &status["primary"]["addresses"][0]["reachable"];
            if *seen == json!(reachable) { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
    };
    first(true).await;
    proxy.set(Mode::Refuse);
    first(false).await;
    proxy.set(Mode::Pass);
    first(true).await;
}

#[tokio::test]
async fn redirects_lead_only_to_configured_addresses() {
    let vault = Vault::start().await;
    let standby = fake::redirect(vault.address.clone()).await;
    let agent = Agent::ready(&(config(&vault, &[&standby, &vault.address]) + QUIET)).await;
    agent.kms().await.round_trip().await;
    let elsewhere = Agent::start(&(config(&vault, &[&standby]) + QUIET));
    let status = elsewhere.wait_for_reason("starting", "unreachable").await;
    assert!(status["reason"]["text"].as_str().unwrap().contains("not configured"), "{status}");
}

#[tokio::test]
async fn a_proxys_html_page_is_an_outage_and_not_a_refusal() {
    let vault = Vault::start().await;
    let proxy = fake::always(403, "text/html", "<html>Forbidden</html>").await;
    let agent = Agent::start(&(config(&vault, &[&proxy]) + QUICK));
    let status = agent.wait_for_reason("starting", "unreachable").await;
    assert!(status["reason"]["text"].as_str().unwrap().contains("proxy"), "{status}");
    let agent = Agent::ready(&(config(&vault, &[&proxy, &vault.address]) + QUICK)).await;
    agent.kms().await.round_trip().await;
}

#[tokio::test]
async fn a_web_page_with_status_200_is_not_taken_for_vault() {
    let vault = Vault::start().await;
    let page = fake::always(200, "text/html", "<html>We are moving</html>").await;
    let agent = Agent::ready(&(config(&vault, &[&page, &vault.address]) + QUICK)).await;
    agent.kms().await.round_trip().await;
}

#[tokio::test]
async fn malformed_answers_do_not_end_the_agent() {
    let vault = Vault::start().await;
    for (status, body) in [
        (429, "{\"errors\": [\"slow down\"]}"),
        (
            200,
            "{\"auth\": {\"client_token\": \"t\", \"lease_duration\": 18446744073709551615, \"renewable\": true}}",
        ),
        (200, "{}"),
        (200, "[1, 2"),
        (503, "{\"errors\": [\"API access to this namespace has been locked by an administrator\"]}"),
    ] {
        let odd = fake::always(status, "application/json", body).await;
        let mut agent = Agent::start(&(config(&vault, &[&odd]) + QUICK));
        let mut kms = agent.kms().await;
        assert!(kms.encrypt(&SEED).await.is_err());
        agent.wait_for_log("starting").await;
        assert_eq!(agent.admin("GET", "/livez").unwrap().0, 200, "{body}: {}", agent.log());
        assert!(agent.stop().await.success(), "{}", agent.log());
    }
}

#[tokio::test]
async fn a_hanging_preferred_address_does_not_prevent_recovery() {
    let (first, mut second) = (Vault::start().await, Vault::persistent().await);
    // The two are not of one cluster, which does not matter here: the first one never answers.
    first.freeze();
    let agent = Agent::ready(&(config(&second, &[&first.address, &second.address]) + QUICK)).await;
    agent.kms().await.round_trip().await;
    second.kill();
    agent.wait_for_reason("degraded", "unreachable").await;
    second.restart().await;
    agent.wait_for_phase("ready").await;
}

#[tokio::test]
async fn an_address_of_another_cluster_is_left_out_and_is_not_a_refusal() {
    let mut vault = Vault::persistent().await;
    let other = Vault::start().await;
    let both = config(&vault, &[&vault.address, &other.address]);
    let agent = Agent::ready(&(both + "[health]\nkey_check_interval = \"200ms\"\nprobe_interval = \"300ms\"\noutage_grace = \"1h\"\n")).await;
    let mut kms = agent.kms().await;
    let key_id = kms.round_trip().await.key_id;
    vault.kill();
    let status = agent.wait_for_reason("degraded", "unreachable").await;
    assert_eq!(kms.status().await.unwrap().healthz, "ok", "{status}");
    eventually("the other cluster is recognised", async || {
        let status = agent.status()?;
        let reason = status["primary"]["addresses"][1]["reason"].to_string();
        if reason.contains("another cluster") { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    vault.restart().await;
    agent.wait_for_phase("ready").await;
    assert_eq!(kms.round_trip().await.key_id, key_id);
}

#[tokio::test]
async fn namespaces_for_the_key_and_for_the_login() {
    // Vault Community has no namespaces.
    let vault = Vault::start_product(Product::OpenBao).await;
    vault.post("sys/namespaces/team", json!({})).await;
    vault.post_in("team", "sys/mounts/keys", json!({ "type": "transit" })).await;
    vault.post_in("team", &format!("keys/keys/{KEY}"), json!({})).await;
    // The login is in the root namespace, and its policy covers the other one.
    let text = policy("keys", KEY).replace("\"keys/", "\"team/keys/")
        + "path \"auth/token/lookup-self\" { capabilities = [\"read\"] }";
    vault.put_policy("kms", &text).await;
    let root_login = vault.vault_config().replace(
        "[vault.transit]",
        "namespace = \"/team/\"\nauth_namespace = \"\"\n[vault.transit]\nmount = \"keys\"",
    );
    let agent = Agent::ready(&(root_login + QUIET)).await;
    let wrapped = agent.kms().await.round_trip().await;
    // The same key without slashes around the namespace has the same id on another node.
    let other = vault.vault_config().replace(
        "[vault.transit]",
        "namespace = \"team\"\nauth_namespace = \"/\"\n[vault.transit]\nmount = \"/keys/\"",
    );
    let agent = Agent::ready(&(other + QUIET)).await;
    assert_eq!(agent.kms().await.decrypt(&wrapped).await.unwrap(), SEED);
    assert_eq!(agent.kms().await.round_trip().await.key_id, wrapped.key_id);
    // A login inside the namespace, for which `auth_namespace` follows `namespace`.
    vault.post_in("team", "sys/policies/acl/kms", json!({ "policy": policy("keys", KEY) })).await;
    vault.post_in("team", "sys/auth/userpass", json!({ "type": "userpass" })).await;
    vault
        .post_in("team", "auth/userpass/users/node", json!({ "password": "p", "token_policies": "kms" }))
        .await;
    crate::support::vault::write_secret(&vault.file("password"), "p");
    let inside = format!(
        "[vault]\naddresses = [{:?}]\nnamespace = \"team\"\n[vault.transit]\nmount = \"keys\"\nkey = {KEY:?}\n[vault.auth]\nmethod = \"userpass\"\nusername = \"node\"\npassword_file = {:?}\n",
        vault.address,
        vault.file("password")
    );
    let agent = Agent::ready(&(inside + QUIET)).await;
    assert_eq!(agent.kms().await.round_trip().await.key_id, wrapped.key_id);
}
