//! `check` uses nothing up, and says what it did not try.

use std::fs;

use serde_json::json;

use crate::check::node;
use crate::support::agent::{Agent, QUIET};
use crate::support::checked::{check, check_without_use};
use crate::support::vault::{KEY, Vault, write_secret};

#[tokio::test(flavor = "multi_thread")]
async fn the_one_use_of_a_secret_id_is_left_to_the_agent() {
    let vault = Vault::start().await;
    vault.approle("once", json!({ "secret_id_num_uses": 1 })).await;
    let config = vault.vault_config();
    for _ in 0..3 {
        let found = check_without_use(node(&config).path(), &[]);
        found.is_green();
        found.says("login", "skipped", &["secret_id_num_uses", "the role is there", "--login"]);
    }
    let agent = Agent::ready(&(config + QUIET)).await;
    let beside = check_without_use(agent.directory.path(), &[]);
    assert_eq!(beside.code, 0, "{beside:#?}");
    beside.says("login", "ok", &["the running agent is logged in"]);
    beside.says("token", "ok", &["expires in"]);
    beside.says("key", "ok", &["version 1"]);
    beside.says("round-trip", "ok", &["the agent's last one was good"]);
    beside.says("policy", "skipped", &["not tried", "--login"]);
    let succeeded = fs::read_to_string(vault.file("audit.log")).unwrap();
    let succeeded = succeeded.lines().filter(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        entry["type"] == "response"
            && entry["request"]["path"] == "auth/approle/login"
            && entry["auth"]["client_token"].is_string()
    });
    assert_eq!(succeeded.count(), 1, "the agent's own");
    // A login that is wanted is tried, and the server's own words say why it fails.
    check(agent.directory.path(), &[]).says("login", "fail", &["invalid role or secret ID"]);
    // Another role-id is seen without a login, too.
    fs::write(vault.file("role-id"), "nobody").unwrap();
    let gone = check_without_use(node(&vault.vault_config()).path(), &[]);
    gone.fails(&["login"], &["knows no role with this role-id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapping_token_is_looked_up_and_not_used() {
    let vault = Vault::start().await;
    let path = "auth/approle/role/kms/secret-id";
    write_secret(&vault.file("secret-id"), &vault.wrapped(path).await);
    let config = vault.vault_config() + "secret_id_wrapped = true\n";
    for more in [&[][..], &["--login"]] {
        let found = check_without_use(node(&config).path(), more);
        found.is_green();
        found.says("login", "skipped", &["was not used", path]);
    }
    let agent = Agent::ready(&(config.clone() + QUIET)).await;
    let beside = check_without_use(agent.directory.path(), &[]);
    assert_eq!(beside.code, 0, "{beside:#?}");
    beside.says("login", "ok", &["the running agent is logged in"]);
    assert_eq!(vault.count("sys/wrapping/unwrap"), 1, "the agent's own");
    // The agent has used it: without the agent, that is a fault.
    drop(agent);
    check_without_use(node(&config).path(), &[]).fails(&["login"], &["a wrapping token can be used once"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_few_uses_is_not_used_up_and_no_policy_is_blamed() {
    let vault = Vault::start().await;
    let made = json!({ "policies": ["kms"], "no_default_policy": true, "period": "24h", "num_uses": 3 });
    let made = vault.post("auth/token/create", made).await;
    write_secret(&vault.file("token"), made["auth"]["client_token"].as_str().unwrap());
    let config = format!(
        "[vault]\naddresses = [{:?}]\n[vault.transit]\nkey = {KEY:?}\n[vault.auth]\nmethod = \"token\"\ntoken_file = {:?}\n",
        vault.address,
        vault.file("token")
    );
    let found = check_without_use(node(&config).path(), &[]);
    found.is_green();
    found.says("login", "skipped", &["each request is one use of the token", "--login"]);
    assert_eq!(vault.count(""), 0, "nothing was sent with it: {:?}", vault.audited());
    let found = check(node(&config).path(), &[]);
    found.says("token", "warn", &["allows only", "nothing else was tried"]);
    assert!(found.outcomes("policy").is_empty(), "{found:#?}");
    assert_eq!(vault.count(""), 1, "one lookup: {:?}", vault.audited());

    // Beside an agent with the same token, what that one knows is shown.
    let made = json!({ "policies": ["kms"], "no_default_policy": true, "period": "24h" });
    let made = vault.post("auth/token/create", made).await;
    write_secret(&vault.file("token"), made["auth"]["client_token"].as_str().unwrap());
    let agent = Agent::ready(&(config + QUIET)).await;
    let sent = vault.count("");
    let beside = check_without_use(agent.directory.path(), &[]);
    assert_eq!(beside.code, 0, "{beside:#?}");
    beside.says("login", "ok", &["the running agent is logged in"]);
    beside.says("key", "ok", &["version 1"]);
    assert_eq!(vault.count(""), sent, "nothing was sent with it");
    drop(agent);

    // The token of a login has few uses.
    vault.approle("few", json!({ "token_num_uses": 4 })).await;
    let found = check(node(&vault.vault_config()).path(), &[]);
    found.says("token", "warn", &["allows only 4 requests", "token_num_uses"]);
    assert!(found.outcomes("policy").is_empty(), "{found:#?}");
}

/// Where the role wants no secret-id, the question without one is a login: its token is not left behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_a_secret_id_is_asked_and_no_token_is_left() {
    let vault = Vault::start().await;
    vault.approle("unbound", json!({})).await;
    let unbound = json!({ "bind_secret_id": false, "token_bound_cidrs": "127.0.0.1/32" });
    vault.post("auth/approle/role/unbound", unbound).await;
    let found = check_without_use(node(&vault.vault_config()).path(), &[]);
    found.says("login", "skipped", &["the role is there"]);
    assert_eq!((vault.count("auth/approle/login"), vault.count("auth/token/revoke-self")), (1, 1));
}
