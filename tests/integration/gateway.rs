//! A real HAProxy as a gateway: the servers are below a path prefix, which it removes.

use std::fmt::Write as _;

use serde_json::json;

use crate::check::node;
use crate::support::agent::{Agent, QUICK, QUIET};
use crate::support::checked::check;
use crate::support::helper::{Helper, free_port};
use crate::support::tools;
use crate::support::vault::Vault;

/// A gateway with the server at `/vault/`, and a standby at `/standby/` that redirects there. Everything else is 404.
async fn gateway(vault: &Vault) -> (Helper, String) {
    let port = free_port();
    let mut configuration = format!(
        "global\n log stdout format raw daemon\ndefaults\n mode http\n log global\n option httplog\n\
         timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
         frontend gateway\n bind 127.0.0.1:{port}\n"
    );
    let server = vault.address.trim_start_matches("http://");
    write!(
        configuration,
        " acl below path_beg /vault/\n acl standby path_beg /standby/\n\
         http-request redirect code 307 location \
         http://127.0.0.1:{port}%[pathq,regsub(^/standby/,/vault/)] if standby\n\
         http-request deny deny_status 404 unless below\n\
         http-request replace-path ^/vault(/.*) \\1\n default_backend vault\n\
         backend vault\n server one {server}\n"
    )
    .unwrap();
    let program = tools::find("haproxy").expect("haproxy is missing: `tests/run` gets it");
    let arguments = ["-db", "-f", "config"];
    let directory = tempfile::tempdir().unwrap();
    let helper = Helper::start(directory, &program, &configuration, &arguments).listens(port).await;
    (helper, format!("http://127.0.0.1:{port}"))
}

fn config(vault: &Vault, addresses: &[String]) -> String {
    vault.vault_config().replace(&format!("[{:?}]", vault.address), &format!("{addresses:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_the_prefix_of_the_address() {
    let vault = Vault::start().await;
    let (haproxy, address) = gateway(&vault).await;
    let config = config(&vault, &[format!("{address}/vault/")]);
    let agent = Agent::ready(&(config.clone() + QUICK)).await;
    agent.kms().await.round_trip().await;
    let status = agent.status().unwrap();
    assert_eq!(status["primary"]["addresses"][0]["address"], format!("{address}/vault"));
    check(node(&config).path(), &[]).is_green();
    let log = haproxy.log();
    let paths: Vec<&str> =
        log.lines().filter_map(|line| line.split(['"', ' ']).find(|word| word.starts_with('/'))).collect();
    assert!(paths.iter().any(|path| path.starts_with("/vault/v1/sys/health")), "{log}");
    assert!(paths.iter().all(|path| path.starts_with("/vault/v1/")), "{log}");
    // Without the prefix, the gateway has nothing there.
    let wrong = Agent::start(&(self::config(&vault, &[address]) + QUICK));
    wrong.wait_for_reason("starting", "unreachable").await;
}

#[tokio::test]
async fn a_redirect_leads_to_the_address_with_that_prefix() {
    let vault = Vault::start().await;
    let (_haproxy, address) = gateway(&vault).await;
    let addresses = [format!("{address}/standby"), format!("{address}/vault")];
    let agent = Agent::ready(&(config(&vault, &addresses) + QUIET)).await;
    agent.kms().await.round_trip().await;
    let status = agent.status().unwrap();
    let addresses = &status["primary"]["addresses"];
    assert_eq!(addresses[1]["preferred"], json!(true), "{status}");
    assert_eq!(addresses[1]["reachable"], json!(true), "{status}");
}
