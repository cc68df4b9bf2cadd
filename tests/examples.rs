//! The examples that people copy: the plugin accepts each of them.

// A test may fail loudly. clippy does not know that helper functions belong to a test.
#![allow(clippy::unwrap_used)]
#![allow(missing_docs)] // a test's name says what it shows

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// The binary, without what the environment of this test would add to a configuration.
fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kms-plugin"));
    let ours = |name: &String| name.starts_with("KMS_PLUGIN_");
    for name in std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(ours) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn every_configuration_is_valid() {
    let files = std::fs::read_dir(example("")).unwrap().map(|entry| entry.unwrap().path());
    let files = files.chain([example("kustomize/config.toml")]);
    let files: Vec<PathBuf> =
        files.filter(|file| file.extension().is_some_and(|extension| extension == "toml")).collect();
    assert!(!files.is_empty());
    for file in files {
        let shown = run(&["config", "--config", file.to_str().unwrap()]);
        assert!(shown.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&shown.stderr));
    }
}

#[test]
fn the_component_for_kustomize_has_the_same_encryption_configuration() {
    let read = |name| std::fs::read_to_string(example(name)).unwrap();
    assert_eq!(read("kustomize/encryption.yaml"), read("encryption-config.yaml"));
}

/// The key service is not there, so the check as a whole fails: only what it says of the API server's file counts.
#[test]
fn the_api_servers_configuration_fits() {
    let (config, yaml) = (example("approle.toml"), example("encryption-config.yaml"));
    let nowhere = tempfile::tempdir().unwrap();
    let checked = run(&[
        "check",
        "--no-login",
        "--output=json",
        "--config",
        config.to_str().unwrap(),
        "--encryption-config",
        yaml.to_str().unwrap(),
        "--vault-addresses=https://127.0.0.1:1",
        "--server-runtime-dir",
        nowhere.path().to_str().unwrap(),
    ]);
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let of_the_file: Vec<_> =
        findings.iter().filter(|finding| finding["check"] == "encryption-config").collect();
    assert_eq!(of_the_file.len(), 1, "{of_the_file:?}");
    assert_eq!(of_the_file[0]["outcome"], "ok", "{of_the_file:?}");
}
