//! A configuration that does not load: the process stays up under systemd, says why, and serves when the files are
//! correct. Elsewhere, and with `--once`, it ends with 78.

use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tonic::Code;

use crate::support::agent::{Agent, QUICK, passing};
use crate::support::checked::{SILENT, check};
use crate::support::eventually;
use crate::support::kms::SEED;
use crate::support::notified::Notified;
use crate::support::vault::Vault;

/// How late the agent may notice a corrected file: two seconds without inotify. The rest is for a busy machine.
const NOTICED: Duration = Duration::from_secs(6);

/// Starts an agent as a service of systemd does.
fn start(notified: &Notified, directory: TempDir, config: &str) -> Agent {
    let path = notified.path();
    Agent::start_in(directory, config, &[("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "1000000")])
}

fn status_line(message: &str) -> &str {
    message.lines().find_map(|line| line.strip_prefix("STATUS=")).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_stays_up_says_why_and_serves_when_the_file_is_correct() {
    let vault = Vault::start().await;
    let good = vault.vault_config() + QUICK + "ready_timeout = \"1s\"\n";
    let bad = good.replace("addresses", "adresses");
    let notified = Notified::new();
    let started = Instant::now();
    let mut agent = start(&notified, tempfile::tempdir().unwrap(), &bad);
    let said = notified.next("STATUS=failed").await;
    let line = status_line(&said);
    assert!(line.contains("the configuration does not load: ") && line.contains("config.toml:"), "{line}");
    assert!(line.ends_with("; remedy: correct the file; no restart is needed"), "{line}");
    assert!(line.chars().count() <= 160, "{line}");
    // The boot goes on, and the watchdog hears from the process.
    notified.all(&["WATCHDOG=1", "READY=1"]).await;
    let ready = started.elapsed();
    eprintln!("MEASURED start to READY, a configuration that does not load, ready_timeout 1 s: {ready:.2?}");
    assert!(ready >= Duration::from_secs(1), "{ready:?}");
    let mut kms = agent.kms().await;
    let refused = [
        kms.status().await.unwrap_err(),
        kms.encrypt(&SEED).await.unwrap_err(),
        kms.decrypt_raw(b"anything", "v1.x").await.unwrap_err(),
    ];
    for refused in refused {
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert!(refused.message().contains("did you mean vault.addresses"), "{refused}");
        assert!(refused.message().contains("; remedy: "), "{refused}");
    }
    assert_eq!(agent.admin("GET", "/livez").unwrap().0, 200);
    let (code, text) = agent.admin("GET", "/healthz?verbose").unwrap();
    assert!(code == 503 && text.contains("[-]configuration failed"), "{code} {text}");
    assert_eq!(agent.admin("GET", "/readyz").unwrap().0, 503);
    assert!(agent.admin("GET", "/metrics").unwrap().1.contains("\nkms_plugin_config_in_use 0\n"));
    let status = agent.status().unwrap();
    assert_eq!(
        (&status["reason"]["kind"], &status["config"]["in_use"]),
        (&"configuration".into(), &false.into())
    );
    let (code, text) = agent.command("status");
    assert!(code == 2 && text.contains("did you mean vault.addresses"), "{code} {text}");
    let (code, text) = agent.command("reload");
    assert!(code == 78 && text.contains("did you mean vault.addresses"), "{code} {text}");
    check(agent.directory.path(), &SILENT).fails(&["configuration", "agent"], &["vault.addresses"]);
    // Another mistake: the state has the new one, and the log has each once.
    agent.write_config(&good.replace("[health]", "[helth]"));
    notified.next("helth").await;
    agent.write_config(&good);
    let corrected = Instant::now();
    agent.wait_for_phase("ready").await;
    let took = corrected.elapsed();
    eprintln!("MEASURED the file is correct to ready: {took:.2?}");
    assert!(took < NOTICED, "{took:?}");
    agent.kms().await.round_trip().await;
    notified.next("STATUS=ready").await;
    let log = agent.log();
    assert_eq!(log.matches("did you mean vault.addresses").count(), 1, "{log}");
    assert!(log.contains("ERROR") && log.lines().count() < 20, "{log}");
    assert!(agent.admin("GET", "/metrics").unwrap().1.contains("\nkms_plugin_config_in_use 1\n"));
    agent.signal(Signal::SIGTERM);
    assert!(agent.ended().await.success(), "{}", agent.log());
}

/// Not even the socket's path can be read: it is known from a variable here, and the socket that systemd passed is used.
#[tokio::test(flavor = "multi_thread")]
async fn a_passed_socket_is_served_without_and_with_a_configuration() {
    let vault = Vault::start().await;
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("kms.sock")).unwrap();
    let run = directory.path().join("run");
    let notified = Notified::new();
    let good = vault.vault_config() + QUICK;
    let agent = Agent::start_with(directory, "[vault", |command| {
        let mut command = passing(&listener, &command);
        command.env("NOTIFY_SOCKET", notified.path()).env("KMS_PLUGIN_SERVER_RUNTIME_DIR", run);
        command.env("KMS_PLUGIN_SERVER_ADMIN", "");
        command
    });
    notified.next("not valid TOML").await;
    let refused = agent.kms().await.status().await.unwrap_err();
    assert!(refused.code() == Code::Unavailable && refused.message().contains("not valid TOML"), "{refused}");
    agent.write_config(&good);
    // SIGHUP has the files read at once. Connections are never refused.
    agent.signal(Signal::SIGHUP);
    UnixStream::connect(agent.socket()).unwrap();
    agent.wait_for_phase("ready").await;
    agent.kms().await.round_trip().await;
    agent.wait_for_log("systemd passed the socket").await;
    assert!(!agent.log().contains("is gone"), "{}", agent.log());
}

/// `kms-plugin reload` waits for the result, also here.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_command_starts_the_service() {
    let vault = Vault::start().await;
    let good = vault.vault_config() + QUICK;
    let notified = Notified::new();
    let missing = good.replace("[vault.transit]", "ca_file = \"/nonexistent.pem\"\n[vault.transit]");
    let agent = start(&notified, tempfile::tempdir().unwrap(), &missing);
    notified.next("/nonexistent.pem").await;
    let (code, text) = agent.command("reload");
    assert!(code == 78 && text.contains("/nonexistent.pem"), "{code} {text}");
    agent.write_config(&good);
    eventually("a reload that works, or the agent that has noticed by itself", async || {
        let (code, text) = agent.command("reload");
        if code == 0 { Ok(()) } else { Err(text) }
    })
    .await;
    agent.wait_for_phase("ready").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_service_without_a_configuration() {
    let notified = Notified::new();
    let mut agent = start(&notified, tempfile::tempdir().unwrap(), "[health]\nprobe_interval = \"soon\"\n");
    notified.next("the configuration does not load").await;
    agent.signal(Signal::SIGTERM);
    notified.next("STOPPING=1").await;
    assert_eq!(agent.ended().await.code(), Some(0), "{}", agent.log());
    assert!(!agent.socket().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_once_and_without_systemd_a_bad_configuration_ends_the_process_with_78() {
    let mut agent = Agent::start("nonsense");
    assert_eq!(agent.ended().await.code(), Some(78), "{}", agent.log());
    let notified = Notified::new();
    let mut agent = Agent::start_with(tempfile::tempdir().unwrap(), "nonsense", |mut command| {
        command.arg("--once").env("NOTIFY_SOCKET", notified.path());
        command
    });
    assert_eq!(agent.ended().await.code(), Some(78), "{}", agent.log());
    assert!(agent.log().contains("not valid TOML"), "{}", agent.log());
}

/// A reload that failed is shown until a good one, also when the state is good.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_reload_is_shown_until_the_next_good_one() {
    let vault = Vault::start().await;
    let good = vault.vault_config() + QUICK;
    let notified = Notified::new();
    let agent = start(&notified, tempfile::tempdir().unwrap(), &good);
    agent.wait_for_phase("ready").await;
    let in_use = |agent: &Agent| {
        let (_, metrics) = agent.admin("GET", "/metrics").unwrap();
        metrics.contains("\nkms_plugin_config_in_use 1\n")
    };
    assert!(in_use(&agent));
    check(agent.directory.path(), &[]).is_green();
    // Changed, and not read yet.
    agent.write_config(&format!("{good}outage_grace = \"2h\"\n"));
    check(agent.directory.path(), &[])
        .warns(&["agent"], &["not the one that the running agent has read", "reload"]);
    agent.write_config(&good.replace("[health]", "[helth]"));
    assert_eq!(agent.command("reload").0, 78);
    let said = notified.next("STATUS=ready; the configuration on disk is not in use: ").await;
    let line = status_line(&said);
    assert!(
        line.contains("config.toml:") && line.ends_with("; remedy: correct it, then run kms-plugin reload"),
        "{line}"
    );
    assert!(!in_use(&agent));
    let status = agent.status().unwrap();
    assert_eq!((&status["phase"], &status["config"]["in_use"]), (&"ready".into(), &false.into()), "{status}");
    assert!(status["config"]["problem"].as_str().unwrap().contains("did you mean health"), "{status}");
    let (code, text) = agent.command("status");
    assert!(code == 0 && text.contains("the one on disk is not in use"), "{code} {text}");
    let (code, text) = agent.admin("GET", "/healthz?verbose").unwrap();
    assert!(code == 200 && text.contains("configuration: the one on disk is not in use"), "{code} {text}");
    check(agent.directory.path(), &SILENT)
        .fails(&["configuration", "agent"], &["does not use the configuration on disk", "kms-plugin reload"]);
    agent.kms().await.round_trip().await;
    // The old file again: the reload is good, and all of it is gone.
    agent.write_config(&good);
    assert_eq!(agent.command("reload").0, 0);
    notified.next("STATUS=ready: transit/keys/kms-key").await;
    assert!(in_use(&agent));
    check(agent.directory.path(), &[]).is_green();
    // A reload that fails because of an outage changes nothing on disk: the files are in use.
    vault.freeze();
    assert_eq!(agent.command("reload").0, 78);
    assert!(in_use(&agent), "{}", agent.log());
    vault.thaw();
}
