//! The number of requests to the key service, counted in its own audit log.

use crate::support::agent::{Agent, QUIET};
use crate::support::vault::{KEY, Vault};

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
async fn an_idle_node_stays_below_4000_requests_a_day() {
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
        (1000..=4000).contains(&a_day),
        "{asked} requests in {seconds} s are {a_day} a day at the defaults"
    );
}
