//! /metrics: what is counted, and that no secret is shown.

use std::collections::HashMap;

use serde_json::json;

use crate::support::agent::{Agent, QUICK, QUIET};
use crate::support::eventually;
use crate::support::kms::SEED;
use crate::support::vault::{KEY, Vault, write_secret};

/// The samples of one scrape, by name with labels.
pub fn scrape(agent: &Agent) -> HashMap<String, f64> {
    let (code, text) = agent.admin("GET", "/metrics").unwrap();
    assert_eq!(code, 200);
    assert!(text.ends_with("# EOF\n"), "{text}");
    let described: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# HELP ")).collect();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let family = name.split('{').next().unwrap();
            assert!(family.starts_with("kms_plugin_"), "{line}");
            let known = |help: &&str| family.starts_with(help.split(' ').next().unwrap());
            assert!(described.iter().any(known), "no HELP for {family}");
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn calls_requests_logins_and_state_are_counted() {
    let mut vault = Vault::persistent().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let mut kms = agent.kms().await;
    let before = scrape(&agent);
    let address = vault.address.clone();
    let names = [
        "kms_plugin_requests_total{method=\"Encrypt\",code=\"OK\"}".to_owned(),
        "kms_plugin_requests_total{method=\"Decrypt\",code=\"OK\"}".to_owned(),
        format!(
            "kms_plugin_vault_requests_total{{operation=\"encrypt\",address=\"{address}\",outcome=\"ok\"}}"
        ),
        format!(
            "kms_plugin_vault_requests_total{{operation=\"decrypt\",address=\"{address}\",outcome=\"ok\"}}"
        ),
        "kms_plugin_request_duration_seconds_count{method=\"Encrypt\"}".to_owned(),
    ];
    for _ in 0..7 {
        kms.round_trip().await;
    }
    let after = scrape(&agent);
    for name in &names {
        let at = |samples: &HashMap<String, f64>| samples.get(name).copied().unwrap_or_default();
        assert_eq!(at(&after) - at(&before), 7.0, "{name}");
    }
    assert_eq!(after["kms_plugin_logins_total{outcome=\"ok\"}"], 1.0);
    assert_eq!(after["kms_plugin_phase{phase=\"ready\"}"], 1.0);
    assert_eq!(after["kms_plugin_key_version{service=\"primary\"}"], 1.0);
    assert_eq!(after["kms_plugin_in_flight"], 0.0);
    assert_eq!(after["kms_plugin_connections"], 1.0);
    assert_eq!(after["kms_plugin_server_restarts_total"], 0.0);
    assert_eq!(after["kms_plugin_key_readable{service=\"primary\"}"], 1.0);
    assert_eq!(after["kms_plugin_key_warnings{service=\"primary\"}"], 0.0);
    assert_eq!(after["kms_plugin_token_problem{service=\"primary\"}"], 0.0);
    let up = format!("kms_plugin_vault_address_up{{service=\"primary\",address=\"{address}\"}}");
    assert_eq!(after[&up], 1.0);
    let key_id = agent.status().unwrap()["primary"]["key"]["key_id"].as_str().unwrap().to_owned();
    assert_eq!(after[&format!("kms_plugin_key_info{{service=\"primary\",key_id=\"{key_id}\"}}")], 1.0);
    assert!(!after.keys().any(|name| name.starts_with("kms_plugin_reason")), "{after:?}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let expiry = after["kms_plugin_token_expiry_timestamp_seconds{service=\"primary\"}"];
    assert!((now + 3500.0..now + 3700.0).contains(&expiry), "{expiry}");
    let started = after["kms_plugin_start_timestamp_seconds"];
    assert!((now - 300.0..now + 1.0).contains(&started), "{started}");

    vault.kill();
    assert!(kms.encrypt(&SEED).await.is_err());
    let after = scrape(&agent);
    assert_eq!(after["kms_plugin_requests_total{method=\"Encrypt\",code=\"UNAVAILABLE\"}"], 1.0);
    let unreachable = format!(
        "kms_plugin_vault_requests_total{{operation=\"encrypt\",address=\"{address}\",outcome=\"unreachable\"}}"
    );
    assert!(after[&unreachable] >= 1.0);
    eventually("the address is down", async || match scrape(&agent)[&up] {
        0.0 => Ok(()),
        up => Err(up.to_string()),
    })
    .await;
    drop(kms);
    eventually("the connection is gone", async || match scrape(&agent)["kms_plugin_connections"] {
        0.0 => Ok(()),
        open => Err(open.to_string()),
    })
    .await;
}

#[tokio::test]
async fn settings_of_the_key_that_should_be_changed_are_counted() {
    let vault = Vault::start().await;
    vault
        .post(&format!("transit/keys/{KEY}/config"), json!({ "deletion_allowed": true, "exportable": true }))
        .await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    assert_eq!(scrape(&agent)["kms_plugin_key_warnings{service=\"primary\"}"], 2.0);
}

#[tokio::test]
async fn refused_credentials_show_while_the_old_token_is_valid() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    write_secret(&vault.file("secret-id"), "not-a-secret-id");
    eventually("the problem", async || {
        let samples = scrape(&agent);
        let refused = samples.get("kms_plugin_logins_total{outcome=\"credentials_refused\"}");
        let problem = samples["kms_plugin_token_problem{service=\"primary\"}"];
        if problem == 1.0 && refused.is_some() { Ok(()) } else { Err(format!("{samples:?}")) }
    })
    .await;
    assert_eq!(scrape(&agent)["kms_plugin_phase{phase=\"ready\"}"], 1.0);
}

#[tokio::test]
async fn an_outage_shows_its_grace_and_a_rebind_is_counted() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    assert!(!scrape(&agent).contains_key("kms_plugin_grace_left_seconds"));
    vault.freeze();
    agent.wait_for_phase("degraded").await;
    let samples = scrape(&agent);
    let left = samples["kms_plugin_grace_left_seconds"];
    assert!((3500.0..=3600.0).contains(&left), "{left}");
    assert_eq!(samples["kms_plugin_phase{phase=\"degraded\"}"], 1.0);
    assert_eq!(samples["kms_plugin_reason{reason=\"unreachable\"}"], 1.0);
    assert_eq!(samples["kms_plugin_key_readable{service=\"primary\"}"], 0.0);
    vault.thaw();
    std::fs::remove_file(agent.socket()).unwrap();
    eventually("the rebind", async || {
        let rebinds = scrape(&agent)["kms_plugin_socket_rebinds_total"];
        if rebinds >= 1.0 { Ok(()) } else { Err(rebinds.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn no_output_shows_a_secret() {
    let vault = Vault::start().await;
    let secret_id = std::fs::read_to_string(vault.file("secret-id")).unwrap();
    let verbose = [("KMS_PLUGIN_LOG_LEVEL", "trace")];
    let agent = Agent::start_in(tempfile::tempdir().unwrap(), &(vault.vault_config() + QUICK), &verbose);
    agent.wait_for_phase("ready").await;
    let mut kms = agent.kms().await;
    let wrapped = kms.round_trip().await;
    assert!(kms.decrypt_raw(&[1; 50], &wrapped.key_id).await.is_err());
    let mut shown = agent.log();
    assert!(shown.contains("KMS_UID=\"test\""), "calls are logged at debug with their uid");
    for path in ["/healthz", "/healthz?verbose", "/readyz", "/status", "/metrics"] {
        shown.push_str(&agent.admin("GET", path).unwrap().1);
    }
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(SEED);
    let seed = String::from_utf8(SEED.to_vec()).unwrap();
    // A token of OpenBao begins with "s." or "hvs.".
    for secret in [secret_id.as_str(), encoded.as_str(), seed.as_str(), "hvs.", "\"s.", " s."] {
        assert!(!shown.contains(secret), "{secret} is shown");
    }
}
