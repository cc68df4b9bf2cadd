//! The output of `check` and `status` on terminals, in pipes, and for programs.

use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::check::node;
use crate::support::agent::{Agent, QUICK, command};
use crate::support::vault::Vault;

/// Runs `check` in a shell on a terminal of this many columns.
fn on_a_terminal(directory: &Path, columns: u16, environment: &str) -> String {
    let line = format!(
        "stty rows 24 cols {columns}; {environment} {} check --config {}",
        env!("CARGO_BIN_EXE_kms-plugin"),
        directory.join("config.toml").display()
    );
    let output = command_of("script").args(["-qec", &line, "/dev/null"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().replace('\r', "")
}

fn command_of(program: &str) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command.stdin(Stdio::null()).env_remove("NO_COLOR").env("TERM", "xterm");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn check_fits_a_narrow_terminal_a_pipe_and_no_colours() {
    let vault = Vault::start().await;
    let node = node(&vault.vault_config().replace(&vault.address, "http://127.0.0.1:9"));
    let narrow = on_a_terminal(node.path(), 40, "");
    assert!(narrow.contains("\x1b["), "{narrow:?}");
    let plain = on_a_terminal(node.path(), 40, "NO_COLOR=1");
    let words = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(!plain.contains('\x1b') && words.contains("start Vault"), "{plain}");
    for line in plain.lines().filter(|line| line.trim().contains(' ')) {
        // A word that cannot be broken, such as a path, may stand on a line of its own.
        let words: Vec<&str> = line.split_whitespace().collect();
        assert!(line.chars().count() <= 40 || words.len() <= 2, "{line:?}");
    }
    let piped = command().args(["check", "--config"]).arg(node.path().join("config.toml")).output().unwrap();
    let text = String::from_utf8(piped.stdout).unwrap();
    assert!(!text.contains('\x1b') && text.contains("fail  tcp "), "{text}");
    assert_eq!(piped.status.code(), Some(2));
    // The reader closes the pipe after some bytes.
    let mut child = command()
        .args(["check", "--config"])
        .arg(node.path().join("config.toml"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 4]).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_shown_to_people_and_programs() {
    let vault = Vault::start().await;
    let mut agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let (code, text) = agent.command_with(&["status"]);
    assert_eq!(code, 0, "{text}");
    for words in
        ["ready for", "transit/keys/kms-key version 1", "key_id", "by approle", "answers, used first"]
    {
        assert!(text.contains(words), "{words}: {text}");
    }
    let (_, json) = agent.command_with(&["status", "--output", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["phase"], &json["kms_status"]), (&"ready".into(), &"ok".into()));
    vault.freeze();
    agent.wait_for_phase("degraded").await;
    let (code, text) = agent.command_with(&["status"]);
    assert!(code == 1 && text.contains("grace left") && text.contains("remedy"), "{code} {text}");
    vault.thaw();
    agent.wait_for_phase("ready").await;
    // `--watch` continues while the agent restarts, and ends when its reader does.
    let mut watching = command()
        .args(["status", "--watch=100ms", "--output", "json", "--runtime-dir"])
        .arg(agent.directory.path().join("run"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watching.stdout.take().unwrap()));
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(next()["phase"], "ready");
    agent.stop().await;
    while next()["error"].is_null() {}
    drop(lines);
    assert_eq!(watching.wait().unwrap().code(), Some(0));
    let (code, text) = agent.command_with(&["status"]);
    assert!(code == 69 && text.contains("no agent answers"), "{code} {text}");
    let (code, text) = agent.command_with(&["status", "--watch=1ms"]);
    assert!(code == 64, "{code} {text}");
}
