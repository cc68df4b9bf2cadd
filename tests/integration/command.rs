//! `probe`, exit codes, and what the socket's path may be.

use std::path::Path;

use serde_json::Value;

use crate::support::PATIENCE;
use crate::support::agent::{Agent, QUIET, command};
use crate::support::fake::{Flaw, Plugin};
use crate::support::vault::Vault;

fn probe(socket: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut command = command();
    command.arg("probe").arg("--socket").arg(socket).args(more);
    if !more.contains(&"--timeout") {
        command.arg("--timeout").arg(format!("{}s", PATIENCE.as_secs()));
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code(), text)
}

#[tokio::test]
async fn probe_measures_a_good_plugin() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let socket = agent.socket();
    let (code, text) = probe(&socket, &[]);
    assert!(code == Some(0) && text.contains("1 of 1 good"), "{text}");
    let (code, text) = probe(&socket, &["--count", "200", "--concurrency", "8", "--output", "json"]);
    assert_eq!(code, Some(0), "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["ok"], &report["round_trips"]["good"]), (&true.into(), &200.into()));
    for operation in ["encrypt_milliseconds", "decrypt_milliseconds"] {
        let at = |name: &str| report[operation][name].as_f64().unwrap();
        assert!(
            at("p50") > 0.0 && at("p50") <= at("p90") && at("p90") <= at("p99") && at("p99") <= at("max"),
            "{report}"
        );
    }
    let uri = format!("unix://{}", socket.display());
    assert_eq!(probe(Path::new(&uri), &[]).0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_finds_faults_of_other_plugins() {
    let directory = tempfile::tempdir().unwrap();
    for (number, (flaw, words)) in [
        (Flaw::Nothing, "1 of 1 good"),
        (Flaw::Unhealthy, "the moon is full"),
        (Flaw::EmptyKeyId, "0 bytes"),
        (Flaw::PlaintextBack, "nothing is encrypted"),
        (Flaw::WrongBytes, "returned other bytes"),
        (Flaw::LongCiphertext, "1025 bytes"),
        (Flaw::DecryptFails, "fell into the sea"),
    ]
    .into_iter()
    .enumerate()
    {
        let socket = directory.path().join(format!("{number}.sock"));
        Plugin(flaw).serve(&socket);
        let (code, text) = tokio::task::spawn_blocking(move || probe(&socket, &[])).await.unwrap();
        let expected = if flaw == Flaw::Nothing { 0 } else { 69 };
        assert!(code == Some(expected) && text.contains(words), "{code:?} {words:?}: {text}");
    }
}

#[test]
fn probe_reports_a_missing_plugin() {
    let directory = tempfile::tempdir().unwrap();
    let (code, text) = probe(&directory.path().join("none.sock"), &[]);
    assert!(
        code == Some(69) && text.contains("no KMS plugin answers") && text.contains("No such file"),
        "{text}"
    );
    let output = command().args(["probe", "--output", "json", "--socket", "/nowhere"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["ok"]), (Some(69), &false.into()), "{report}");
    let (code, text) = probe(Path::new("/x"), &["--count", "0"]);
    assert!(code == Some(64) && text.contains("1..="), "{text}");
    assert_eq!(probe(Path::new("/x"), &["--timeout", "0s"]).0, Some(64));
    assert_eq!(command().arg("prob").output().unwrap().status.code(), Some(64));
    assert_eq!(command().arg("--help").output().unwrap().status.code(), Some(0));
}

#[tokio::test]
async fn unusable_socket_paths_end_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let long = format!("/{}", "x".repeat(107));
    let at = |path: &Path| path.display().to_string();
    for (socket, code, words) in [
        (at(&file), 69, "a file is at the path of the socket"),
        (at(directory.path()), 69, "a directory is at the path of the socket"),
        (at(&directory.path().join("missing/kms.sock")), 69, "does not exist"),
        (long, 78, "108 bytes"),
        ("kms.sock".to_owned(), 78, "not an absolute path"),
        ("unix:///@abstract".to_owned(), 78, "abstract"),
    ] {
        let config = "[vault]\naddresses = [\"http://127.0.0.1:9\"]\n[vault.transit]\nkey = \"k\"\n[vault.auth]\nmethod = \"token\"\ntoken_file = \"/t\"\n";
        let own = [("KMS_PLUGIN_SERVER_SOCKET", socket.as_str())];
        let mut agent = Agent::start_in(tempfile::tempdir().unwrap(), config, &own);
        assert_eq!(agent.ended().await.code(), Some(code), "{socket}: {}", agent.log());
        assert!(agent.log().contains(words), "{words:?} in {}", agent.log());
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), "precious");
}

#[tokio::test]
async fn a_live_socket_is_not_taken_over_and_a_stale_one_is() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let socket = agent.socket().display().to_string();
    let own = [("KMS_PLUGIN_SERVER_SOCKET", socket.as_str())];
    let mut second = Agent::start_in(tempfile::tempdir().unwrap(), &(vault.vault_config() + QUIET), &own);
    assert_eq!(second.ended().await.code(), Some(69));
    agent.kms().await.round_trip().await;
    // kill -9 leaves the file behind.
    let directory = agent.kill();
    assert!(directory.path().join("kms.sock").exists());
    let agent = Agent::start_in(directory, &(vault.vault_config() + QUIET), &[]);
    agent.wait_for_phase("ready").await;
    agent.kms().await.round_trip().await;
}
