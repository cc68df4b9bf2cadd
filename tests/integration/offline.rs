//! Where an administrator sees local KEKs: the admin API, `status`, metrics, and `check`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::Value;

use crate::check::node;
use crate::metrics::scrape;
use crate::support::agent::{Agent, LOCAL_KEK, QUICK};
use crate::support::checked::check;
use crate::support::eventually;
use crate::support::kms::SEED;
use crate::support::vault::Vault;

/// Waits until what `/status` says of the keys in memory is as wanted.
async fn shown(agent: &Agent, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || {
        let status = agent.status()?;
        if wanted(&status["offline"]) { Ok(status["offline"].clone()) } else { Err(status.to_string()) }
    })
    .await
}

/// Waits until so many wrapped keys are listed; the state directory.
async fn listed(agent: &Agent, keys: usize) -> PathBuf {
    let state = agent.directory.path().join("state");
    eventually("the list of wrapped keys", async || {
        let list = fs::read_to_string(state.join("wrapped-keys.json")).map_err(|error| error.to_string())?;
        if list.matches("\"wrapped\"").count() == keys { Ok(()) } else { Err(list) }
    })
    .await;
    state
}

fn text(agent: &Agent, path: &str) -> String {
    agent.admin("GET", path).unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn every_output_shows_the_keys_in_memory() {
    let mut vault = Vault::persistent().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let public = port.to_string();
    let config = vault.vault_config() + QUICK;
    let variables = [("KMS_PLUGIN_SERVER_ADMIN", public.as_str())];
    let agent = Agent::start_in(tempfile::tempdir().unwrap(), &config, &variables);
    agent.wait_for_phase("ready").await;
    let mut kms = agent.kms().await;
    let direct = kms.encrypt(&SEED).await.unwrap();
    // Turned off: nothing is shown.
    assert_eq!(agent.status().unwrap()["offline"], Value::Null);
    assert_eq!(text(&agent, "/local-keks"), "[]");
    assert!(!text(&agent, "/healthz?verbose").contains("offline"));
    assert!(!agent.command("status").1.contains("offline"));
    let off = scrape(&agent);
    for name in ["offline", "local_kek", "kept_", "keys_", "wrapped_keys"] {
        assert!(!off.keys().any(|key| key.starts_with(&format!("kms_plugin_{name}"))), "{name}: {off:?}");
    }

    let agent = Agent::start_in(agent.kill(), &(config + LOCAL_KEK), &variables);
    agent.wait_for_phase("ready").await;
    shown(&agent, "readiness for an outage", |offline| offline["ready"] == true).await;
    let mut kms = agent.kms().await;
    kms.decrypt(&direct).await.unwrap();
    kms.encrypt(&SEED).await.unwrap();
    let offline = shown(&agent, "a kept seed", |offline| offline["seeds"] == 1 && offline["uses"] == 1).await;
    assert_eq!(
        (&offline["keks"], &offline["missing"], &offline["unwraps"]),
        (&1.into(), &0.into(), &1.into())
    );
    assert_eq!(offline["line"], "ready for an outage of 8h");
    let left = offline["left_seconds"].as_u64().unwrap();
    assert!((8 * 3600 - 300..=8 * 3600).contains(&left), "{left}");

    let kept: Vec<String> = serde_json::from_str(&text(&agent, "/local-keks")).unwrap();
    assert!(kept.len() == 2 && kept.iter().all(|key| key.len() == 64), "{kept:?}");
    // For root alone: the public address does not have it.
    let mut stream = TcpStream::connect(&public).unwrap();
    write!(stream, "GET /local-keks HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(text(&agent, "/healthz?verbose").contains("offline: ready for an outage of 8h\n"));
    let (code, said) = agent.command("status");
    for words in [
        "ready for an outage of 8h",
        "used for 1 seeds",
        "local KEKs: 1; seeds without a local KEK: 1",
        "lost when the agent",
    ] {
        assert!(code == 0 && said.contains(words), "{words}: {said}");
    }

    let seed = String::from_utf8(SEED.to_vec()).unwrap();
    for path in ["/local-keks", "/status", "/healthz?verbose", "/metrics"] {
        assert!(!text(&agent, path).contains(&seed), "{path} shows a seed");
    }
    let samples = scrape(&agent);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    for (name, low, high) in [
        ("offline_ready", 1.0, 1.0),
        ("offline_max_seconds", 28_800.0, 28_800.0),
        ("offline_left_seconds", 28_500.0, 28_800.0),
        ("local_keks", 1.0, 1.0),
        ("kept_seeds", 1.0, 1.0),
        ("wrapped_keys_missing", 0.0, 0.0),
        ("local_kek_uses", 1.0, 1.0),
        ("local_kek_created_timestamp_seconds", now - 300.0, now + 1.0),
        ("kept_key_unwraps_total", 1.0, 1.0),
        ("keys_kept", 0.0, 0.0),
        ("keys_locked", 0.0, 1.0),
    ] {
        let value = samples[&format!("kms_plugin_{name}")];
        assert!((low..=high).contains(&value), "{name}: {value}");
    }

    // In an outage the time left counts down. A restart without systemd loses the keys.
    vault.kill();
    agent.wait_for_reason("degraded", "unreachable").await;
    let verbose = text(&agent, "/healthz?verbose");
    assert!(verbose.contains("offline: ready for an outage of 8h; 7h 59m of it left\n"), "{verbose}");
    let (code, said) = agent.command("status");
    assert!(code == 1 && said.contains("offline left  7h 59m"), "{said}");
    listed(&agent, 2).await;
    let agent = Agent::start_in(agent.kill(), &(vault.vault_config() + QUICK + LOCAL_KEK), &[]);
    let offline = shown(&agent, "an agent without keys", |offline| offline["missing"] == 2).await;
    assert_eq!((&offline["ready"], &offline["left_seconds"]), (&false.into(), &0.into()));
    let verbose = text(&agent, "/healthz?verbose");
    assert!(
        verbose.contains("offline: not ready for an outage: 2 wrapped keys are not unwrapped"),
        "{verbose}"
    );
    assert_eq!(scrape(&agent)["kms_plugin_wrapped_keys_missing"], 2.0);
    check(agent.directory.path(), &[]).says("offline", "warn", &["2 wrapped keys", "while Vault answers"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_what_is_missing_for_an_outage() {
    let vault = Vault::start().await;
    let config = vault.vault_config() + QUICK;
    // Settings without effect while local KEKs are off.
    let early = node(&(config.clone() + "[local_kek]\nmax_offline = \"4h\"\n"));
    let found = check(early.path(), &[]);
    found.says("configuration", "warn", &["local_kek.max_offline", "no effect", "local_kek.enabled = true"]);
    assert!(found.outcomes("offline").is_empty(), "{found:#?}");

    let agent = Agent::ready(&config).await;
    agent.write_config(&(config.clone() + LOCAL_KEK));
    check(agent.directory.path(), &[]).says("offline", "warn", &["has local KEKs off", "kms-plugin reload"]);
    let agent = Agent::start_in(agent.kill(), &(config + LOCAL_KEK), &[]);
    agent.wait_for_phase("ready").await;
    shown(&agent, "readiness for an outage", |offline| offline["ready"] == true).await;
    let state = listed(&agent, 1).await;
    let good = check(agent.directory.path(), &[]);
    good.says("offline", "ok", &["ready for an outage of 8h", "local KEKs: 1"]);
    // Only root is told: the check of another user does not know the user of the agent.
    if nix::unistd::geteuid().is_root() {
        good.says("offline", "ok", &["/state", "can write there"]);
    }

    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    check(agent.directory.path(), &[]).says("offline", "warn", &["0755", "chmod 0700"]);
    fs::remove_dir_all(&state).unwrap();
    check(agent.directory.path(), &[]).says("offline", "warn", &["is not there", "mkdir -m 0700"]);
    fs::write(&state, "").unwrap();
    check(agent.directory.path(), &[]).says("offline", "warn", &["is not a directory"]);
}
