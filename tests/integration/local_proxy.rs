//! A real Vault or OpenBao proxy (and agent) on this machine, which logs in by itself: the method `none`.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::check::node;
use crate::support::agent::{Agent, LOCAL_KEK, QUICK};
use crate::support::checked::check;
use crate::support::eventually;
use crate::support::helper::Helper;
use crate::support::kms::SEED;
use crate::support::vault::{KEY, Vault, policy, write_secret};

/// Starts `COMMAND` of the server's program with auto-auth by AppRole. Returns it and its unix socket.
async fn started(vault: &Vault, command: &str) -> (Helper, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("proxy.sock");
    // An agent keeps this setting in its cache, a proxy in a table of its own.
    let (table, cache) = match command {
        "agent" => ("cache", ""),
        _ => ("api_proxy", ""),
    };
    let configuration = format!(
        "vault {{ address = {:?}\n retry {{ num_retries = -1 }} }}\n\
         auto_auth {{\n method \"approle\" {{\n config = {{ role_id_file_path = {:?}\n secret_id_file_path = {:?}\n\
         remove_secret_id_file_after_reading = false }}\n min_backoff = \"200ms\"\n max_backoff = \"400ms\"\n }} }}\n\
         {table} {{ use_auto_auth_token = \"force\" }}\n{cache}\
         listener \"unix\" {{ address = {socket:?}\n tls_disable = true\n require_request_header = true }}\n",
        vault.address,
        vault.file("role-id"),
        vault.file("secret-id"),
    );
    let program = vault.program();
    let arguments = [command, "-config=config"];
    let helper = Helper::start(directory, &program, &configuration, &arguments).listens_on(&socket).await;
    (helper, socket)
}

fn config(socket: &std::path::Path) -> String {
    format!(
        "[vault]\naddresses = [\"unix://{}\"]\n[vault.transit]\nkey = {KEY:?}\n[vault.auth]\nmethod = \"none\"\n",
        socket.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_logs_in_serves_an_agent_without_a_token() {
    let vault = Vault::start().await;
    let secret_id = fs::read_to_string(vault.file("secret-id")).unwrap();
    fs::remove_file(vault.file("secret-id")).unwrap();
    let (proxy, socket) = started(&vault, "proxy").await;
    // It has no token yet: an outage of the proxy, and no refusal, however often it is confirmed.
    let agent = Agent::start(&(config(&socket) + QUICK + LOCAL_KEK));
    let status = agent.wait_for_reason("starting", "unreachable").await;
    let reason = status["reason"].to_string();
    assert!(reason.contains("has not logged in") && reason.contains("auto_auth"), "{reason}");
    let found = check(node(&config(&socket)).path(), &[]);
    found.fails(&["key"], &["has not logged in", "proxy's log"]);
    found.says("token", "warn", &["lookup-self"]);
    let seen = vault.count("transit/");
    eventually("some more refused requests", async || {
        let now = vault.count("transit/");
        if now > seen + 6 { Ok(()) } else { Err(format!("{now} requests")) }
    })
    .await;
    assert_eq!(agent.status().unwrap()["phase"], "starting");
    write_secret(&vault.file("secret-id"), &secret_id);
    let status = agent.wait_for_phase("ready").await;
    let token = &status["primary"]["token"];
    assert_eq!(
        (&token["method"], &token["held"], &token["logins"]),
        (&json!("none"), &json!(false), &json!(0))
    );
    let mut kms = agent.kms().await;
    kms.round_trip().await;
    let log = agent.log();
    assert!(!log.contains("INFO logged in") && !log.contains("token is no longer valid"), "{log}");
    // Its own requests beside the proxy's: none for a token, as long as nothing is refused.
    let before = vault.count("auth/token/");
    let seen = vault.count("transit/encrypt");
    eventually("some more probes", async || {
        let now = vault.count("transit/encrypt");
        if now > seen + 5 { Ok(()) } else { Err(format!("{now} probes")) }
    })
    .await;
    assert_eq!(vault.count("auth/token/"), before, "no lookup and no renewal");
    let found = check(node(&config(&socket)).path(), &[]);
    found.is_green();
    assert_eq!(found.outcomes("login"), ["skipped"]);
    let output = crate::support::agent::command()
        .args(["status", "--runtime-dir"])
        .arg(agent.directory.path().join("run"))
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("the proxy at the address logs in"), "{shown}");
    // The proxy goes away: an outage.
    drop(proxy);
    let status = agent.wait_for_reason("degraded", "unreachable").await;
    assert!(status["reason"].to_string().contains("proxy.sock"), "{status}");
}

#[tokio::test]
async fn a_policy_that_denies_is_a_refusal_and_a_dead_token_of_the_proxy_is_not() {
    let vault = Vault::start().await;
    let (_proxy, socket) = started(&vault, "proxy").await;
    let agent = Agent::ready(&(config(&socket) + QUICK)).await;
    // The proxy's token is looked up: it is valid, so the policy is the reason.
    vault.put_policy("kms", "path \"auth/token/lookup-self\" { capabilities = [\"read\"] }").await;
    agent.wait_for_reason("failed", "denied").await;
    vault.put_policy("kms", &policy("transit", KEY)).await;
    agent.wait_for_phase("ready").await;
    // Nobody can log in any more: until the proxy can, the agent waits for it.
    vault.delete("auth/approle/role/kms").await;
    vault.request(reqwest::Method::PUT, "sys/leases/revoke-prefix/auth/approle/login", json!({}), "").await;
    let status = agent.wait_for_reason("degraded", "unreachable").await;
    assert!(status["reason"].to_string().contains("has no valid token"), "{status}");
    let mut kms = agent.kms().await;
    assert_eq!(kms.encrypt(&SEED).await.unwrap_err().code(), tonic::Code::Unavailable);
}

/// `agent` is the older way to the same: its cache adds the token.
#[tokio::test]
async fn a_vault_agent_works_like_a_proxy() {
    let vault = Vault::start().await;
    let (_agent, socket) = started(&vault, "agent").await;
    let agent = Agent::ready(&(config(&socket) + QUICK)).await;
    agent.kms().await.round_trip().await;
}

/// A socket is an address for every method: the proxy passes the agent's own token on.
#[tokio::test]
async fn a_socket_is_an_address_for_a_method_that_logs_in() {
    let vault = Vault::start().await;
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("pass.sock");
    let configuration = format!(
        "vault {{ address = {:?} }}\nlistener \"unix\" {{ address = {socket:?}\n tls_disable = true }}\n",
        vault.address
    );
    let arguments = ["proxy", "-config=config"];
    let _proxy =
        Helper::start(directory, &vault.program(), &configuration, &arguments).listens_on(&socket).await;
    let address = format!("unix://{}", socket.display());
    let agent = Agent::ready(&(vault.vault_config().replace(&vault.address, &address) + QUICK)).await;
    agent.kms().await.round_trip().await;
    assert_eq!(agent.status().unwrap()["primary"]["addresses"][0]["address"], address);
    // No socket is there.
    let missing = format!("unix://{}-other", socket.display());
    let found = check(node(&vault.vault_config().replace(&vault.address, &missing)).path(), &[]);
    found.fails(&["tcp"], &["No such file", "start the proxy"]);
}
