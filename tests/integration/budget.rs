//! The number of requests to the key service, counted in its own audit log.

use std::time::{Duration, Instant};

use crate::support::agent::{Agent, QUIET};
use crate::support::vault::{KEY, Vault, policy};

#[tokio::test]
async fn encrypt_and_decrypt_cost_one_request_each_and_status_none() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let mut kms = agent.kms().await;
    let before = vault.audited().len();
    for _ in 0..25 {
        kms.round_trip().await;
    }
    for _ in 0..200 {
        assert_eq!(kms.status().await.unwrap().healthz, "ok");
    }
    for path in ["/healthz", "/readyz", "/livez", "/status", "/healthz?verbose"] {
        assert_eq!(agent.admin("GET", path).unwrap().0, 200, "{path}");
    }
    let audited = &vault.audited()[before..];
    let count = |operation: &str| {
        let path = format!("transit/{operation}/{KEY}");
        audited.iter().filter(|found| **found == path).count()
    };
    assert_eq!((count("encrypt"), count("decrypt"), audited.len()), (25, 25, 50), "{audited:?}");
}

#[tokio::test]
async fn a_start_costs_one_login_one_read_and_one_round_trip() {
    let vault = Vault::start().await;
    let _agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let mut audited = vault.audited();
    audited.sort();
    let expected = [
        "auth/approle/login".to_owned(),
        format!("transit/decrypt/{KEY}"),
        format!("transit/encrypt/{KEY}"),
        format!("transit/keys/{KEY}"),
    ];
    assert_eq!(audited, expected);
}

/// The intervals are a sixtieth of the defaults: what is counted in 15 s stands for 15 minutes.
#[tokio::test]
async fn an_idle_node_stays_below_4500_requests_a_day() {
    let vault = Vault::start().await;
    let scaled = "[health]\nkey_check_interval = \"1s\"\nprobe_interval = \"1500ms\"\n";
    let _agent = Agent::ready(&(vault.vault_config() + scaled)).await;
    let before = vault.audited().len();
    let seconds = 15;
    tokio::time::sleep(std::time::Duration::from_secs(seconds)).await;
    let asked = vault.audited().len() - before;
    let a_day = asked as u64 * 86_400 / 60 / seconds;
    // The promise is the upper bound. A busy machine asks less often.
    assert!(
        (1000..=4500).contains(&a_day),
        "{asked} requests in {seconds} s are {a_day} a day at the defaults"
    );
}

/// The agent once read the key in a loop without a pause here: up to 22,000 requests until the next interval.
#[tokio::test]
async fn a_key_that_may_be_read_only_later_makes_no_loop() {
    let vault = Vault::start().await;
    let token_only = "path \"auth/token/lookup-self\" { capabilities = [\"read\"] }";
    vault.put_policy("kms", token_only).await;
    let (before, started) = (vault.audited().len(), Instant::now());
    let _agent = Agent::start(&vault.vault_config());
    tokio::time::sleep(Duration::from_millis(1300)).await;
    vault.put_policy("kms", &policy("transit", KEY)).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let seconds = started.elapsed().as_secs() as usize + 1;
    // The burst and the rate of the background, then those of the upkeep, and the two changes of the policy.
    let allowed = 20 + seconds + 10 + seconds / 6 + 2;
    let asked = vault.audited().len() - before;
    eprintln!("MEASURED a key that may be read only later: {asked} requests in {seconds} s");
    assert!(asked <= allowed, "{asked} requests in {seconds} s");
}
