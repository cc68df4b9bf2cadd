//! When systemd hears that the agent is ready, at default intervals: the kubelet starts after that.

use std::time::{Duration, Instant};

use crate::local_kek::written;
use crate::support::agent::{Agent, LOCAL_KEK};
use crate::support::kms::SEED;
use crate::support::notified::Notified;
use crate::support::vault::{Vault, write_secret};

/// The default of `health.ready_timeout`.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// How much later than promised READY may come on a busy machine.
const SLOW_MACHINE: Duration = Duration::from_secs(4);

/// Starts an agent in `directory`. Returns it, and how long it took to READY.
async fn ready(directory: tempfile::TempDir, config: &str) -> (Agent, Duration) {
    let notified = Notified::new();
    let path = notified.path();
    let started = Instant::now();
    let agent = Agent::start_in(directory, config, &[("NOTIFY_SOCKET", path.as_str())]);
    notified.next("READY=1").await;
    (agent, started.elapsed())
}

#[tokio::test]
async fn a_good_vault_makes_the_agent_ready_at_once() {
    let vault = Vault::start().await;
    let (agent, took) = ready(tempfile::tempdir().unwrap(), &vault.vault_config()).await;
    eprintln!("MEASURED start to READY, a good Vault: {took:.2?}");
    assert_eq!(agent.status().unwrap()["phase"], "ready");
    assert!(took < READY_TIMEOUT, "{took:?}");
}

#[tokio::test]
async fn a_vault_that_is_away_holds_the_boot_for_ten_seconds() {
    let vault = Vault::start().await;
    let config = vault.vault_config();
    vault.freeze();
    let (agent, took) = ready(tempfile::tempdir().unwrap(), &config).await;
    eprintln!("MEASURED start to READY, Vault is away: {took:.2?}");
    assert!((READY_TIMEOUT..READY_TIMEOUT + SLOW_MACHINE).contains(&took), "{took:?}");
    assert_eq!(agent.status().unwrap()["phase"], "starting");
    vault.thaw();
    agent.wait_for_phase("ready").await;
}

#[tokio::test]
async fn a_refusal_makes_the_agent_ready_when_it_is_confirmed() {
    let vault = Vault::start().await;
    write_secret(&vault.file("secret-id"), "00000000-0000-0000-0000-000000000000");
    let (agent, took) = ready(tempfile::tempdir().unwrap(), &vault.vault_config()).await;
    eprintln!("MEASURED start to READY, a wrong secret-id: {took:.2?}");
    let status = agent.status().unwrap();
    assert_eq!((&status["phase"], &status["kms_status"]), (&"failed".into(), &"refused".into()), "{status}");
    // The confirmation takes five seconds.
    assert!(took < READY_TIMEOUT, "{took:?}");
    let line = status["line"].as_str().unwrap();
    assert!(line.ends_with("remedy: put valid credentials into their file"), "{line}");
    assert!(line.chars().count() <= 160, "{line}");
}

/// The descriptors that hold the keys are another matter: what the first agent has saved is enough for Status.
#[tokio::test]
async fn an_identity_that_was_saved_makes_the_agent_ready_at_once_in_an_outage() {
    let vault = Vault::start().await;
    let config = vault.vault_config() + LOCAL_KEK;
    let (agent, _) = ready(tempfile::tempdir().unwrap(), &config).await;
    let wrapped = written(&mut agent.kms().await).await;
    assert_eq!(agent.kms().await.decrypt(&wrapped).await.unwrap(), SEED);
    vault.freeze();
    let (agent, took) = ready(agent.kill(), &config).await;
    eprintln!("MEASURED start to READY, resumed in an outage: {took:.2?}");
    assert!(took < READY_TIMEOUT / 2, "{took:?}");
    assert_eq!(agent.kms().await.status().await.unwrap().healthz, "ok");
}
