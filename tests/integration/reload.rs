//! SIGHUP: new settings keep the connections, and bad settings change nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::agent::{Agent, QUICK};
use crate::support::eventually;
use crate::support::kms::{Kms, SEED};
use crate::support::proxy::{Mode, Proxy};
use crate::support::vault::{KEY, Vault, policy};

/// Round trips on one connection until `stop` is set; the number of good ones. None may fail.
fn load(mut kms: Kms) -> (Arc<AtomicBool>, Arc<AtomicU64>, tokio::task::JoinHandle<()>) {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (stopped, counted) = (stop.clone(), count.clone());
    let task = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            let announced = kms.status().await.unwrap();
            assert_eq!(announced.healthz, "ok");
            kms.round_trip().await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    (stop, count, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_the_key_under_load_and_old_data_stays_readable() {
    let vault = Vault::start().await;
    vault.post("transit/keys/newer", json!({})).await;
    vault.put_policy("kms", &(policy("transit", KEY) + &policy("transit", "newer"))).await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let mut kms = agent.kms().await;
    let old = kms.round_trip().await;
    let (stop, count, task) = load(agent.kms().await);
    let newer = vault.vault_config().replace(&format!("key = {KEY:?}"), "key = \"newer\"");
    let older = format!("[[decrypt_only]]\nname = \"before\"\n[decrypt_only.vault.transit]\nkey = {KEY:?}\n");
    agent.reload(&(newer + &older + QUICK));
    agent.wait_for_log("the configuration was reloaded").await;
    let before = count.load(Ordering::Relaxed);
    eventually("more round trips", async || {
        if count.load(Ordering::Relaxed) > before + 20 { Ok(()) } else { Err("not yet".into()) }
    })
    .await;
    let fresh = kms.round_trip().await;
    assert_ne!(fresh.key_id, old.key_id);
    assert_eq!(kms.decrypt(&old).await.unwrap(), SEED);
    stop.store(true, Ordering::Relaxed);
    task.await.unwrap();
    assert_eq!(agent.status().unwrap()["primary"]["key"]["scope"]["key"], "newer");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reload_command_waits_for_the_outcome() {
    let vault = Vault::start().await;
    let config = vault.vault_config() + QUICK;
    let agent = Agent::ready(&config).await;
    let (code, said) = agent.command("reload");
    assert_eq!((code, said.starts_with("reloaded: ready")), (0, true), "{said}");
    agent.write_config(&config.replace("[health]", "[helth]"));
    let (code, said) = agent.command("reload");
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("did you mean health"), "{said}");
    agent.write_config(&config.replace(KEY, "nothing"));
    let (code, said) = agent.command("reload");
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("the old configuration stays in use"), "{said}");
    agent.kms().await.round_trip().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_is_reported_and_the_old_one_stays() {
    let vault = Vault::start().await;
    let config = vault.vault_config() + QUICK;
    let agent = Agent::ready(&config).await;
    let (stop, _, task) = load(agent.kms().await);
    let key_id = agent.kms().await.status().await.unwrap().key_id;
    let failures = |agent: &Agent| agent.log().matches("the old configuration stays in use").count();
    for (number, (bad, words)) in [
        (config.replace("method", "methud"), "did you mean vault.auth.method"),
        ("not toml".to_owned(), "not valid TOML"),
        (
            config.replace("[vault.transit]", "ca_file = \"/nonexistent.pem\"\n[vault.transit]"),
            "/nonexistent.pem cannot be read",
        ),
        (config.replace(&vault.address, "http://127.0.0.1:9"), "did not work within"),
    ]
    .into_iter()
    .enumerate()
    {
        agent.reload(&bad);
        agent.wait_for_log(words).await;
        eventually(
            "the failure is told",
            async || {
                if failures(&agent) > number { Ok(()) } else { Err(agent.log()) }
            },
        )
        .await;
        let status = agent.kms().await.status().await.unwrap();
        assert_eq!((status.healthz.as_str(), &status.key_id), ("ok", &key_id), "{words}");
    }
    // The agent still works, and a good file is still taken.
    agent.reload(&config);
    agent.wait_for_log("the configuration was reloaded").await;
    stop.store(true, Ordering::Relaxed);
    task.await.unwrap();
    agent.kms().await.round_trip().await;
    let mut agent = agent;
    agent.signal(Signal::SIGTERM);
    assert!(agent.ended().await.success(), "{}", agent.log());
}

/// Administrators look at `/healthz` after each reload: by then every key service must have been read.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_waits_for_the_first_read_of_decrypt_only_keys() {
    let (vault, other) = tokio::join!(Vault::start(), Vault::start());
    let proxy = Proxy::before(&other.address).await;
    proxy.set(Mode::Slow(Duration::from_millis(300)));
    let config = vault.vault_config() + QUICK;
    let agent = Agent::ready(&config).await;
    let entry = other.decrypt_only("other").replace(&other.address, &proxy.address);
    let reload = |config: &str| {
        agent.write_config(config);
        let (code, said) = agent.command("reload");
        assert_eq!(code, 0, "{said}");
        agent.admin("GET", "/healthz?verbose").unwrap()
    };
    let (code, text) = reload(&(config.clone() + &entry));
    assert_eq!(code, 200, "{text}");
    assert_eq!(reload(&config).0, 200);
    // An unreachable service does not delay the reload, and is shown.
    proxy.set(Mode::Refuse);
    let (code, text) = reload(&(config + &entry));
    assert!(code == 503 && text.contains("[-]other"), "{text}");
}
