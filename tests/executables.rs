//! The two executables: what the daemon links, and how it starts the tools.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may fail loudly

use std::path::Path;
use std::process::Command;

const DAEMON: &str = env!("CARGO_BIN_EXE_kms-plugin");
const TOOLS: &str = env!("CARGO_BIN_EXE_kms-plugin-tools");

/// Crates that only the tools need: a tar writer with its compression, a regex engine, makers of man pages, a progress
/// bar, a YAML reader and writer, a client of Kubernetes with what it brings along.
const TOOLS_ONLY: [&str; 12] = [
    "tar",
    "flate2",
    "regex",
    "regex_automata",
    "clap_mangen",
    "roff",
    "indicatif",
    "yaml_serde",
    "kube_client",
    "k8s_openapi",
    "jiff",
    "serde_saphyr",
];

/// The crates of which a program has a function, by its symbol table.
fn linked(program: &str) -> Vec<&'static str> {
    let output = Command::new("nm").args(["--demangle", "--defined-only", program]).output();
    let output = output.expect("nm of the C compiler's binutils");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let symbols = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(symbols.contains("kms_plugin::"), "{program} has no symbols");
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let has = |name: &str| {
        let path = format!("{name}::");
        symbols
            .match_indices(&path)
            .any(|(at, _)| !symbols[..at].ends_with(is_word) && !symbols[..at].ends_with("::"))
    };
    TOOLS_ONLY.into_iter().filter(|name| has(name)).collect()
}

#[test]
fn the_daemon_links_nothing_that_only_the_tools_need() {
    assert_eq!(linked(DAEMON), Vec::<&str>::new());
    assert_eq!(linked(TOOLS), TOOLS_ONLY, "the list has names that no longer exist");
}

#[test]
fn the_daemon_starts_the_tools_beside_it_and_never_those_in_path() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("bin/kms-plugin");
    std::fs::create_dir(directory.path().join("bin")).unwrap();
    std::fs::copy(DAEMON, &copy).unwrap();
    let run = |path: &Path| {
        let mut command = Command::new(path);
        command.args(["config", "--keys"]).env("PATH", Path::new(TOOLS).parent().unwrap());
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, _, error) = run(&copy);
    assert_eq!(code, 69, "{error}");
    assert!(error.contains("kms-plugin-tools") && error.contains("cargo build"), "{error}");
    // As packages install it.
    let libexec = directory.path().join("libexec/kms-plugin");
    std::fs::create_dir_all(&libexec).unwrap();
    std::fs::copy(TOOLS, libexec.join("kms-plugin-tools")).unwrap();
    let (code, keys, error) = run(&copy);
    assert_eq!((code, keys.contains("vault.transit.key")), (0, true), "{error}");
}

#[test]
fn the_daemon_runs_no_tools_from_a_directory_that_everybody_can_write_to() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let copy = directory.path().join("kms-plugin");
    std::fs::copy(DAEMON, &copy).unwrap();
    std::fs::copy(TOOLS, directory.path().join("kms-plugin-tools")).unwrap();
    let output = Command::new(&copy).arg("--version").output().unwrap();
    assert!(output.status.success(), "the daemon itself runs");
    let output = Command::new(&copy).args(["config", "--keys"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(69) && error.contains("every user can write"), "{error}");
}

#[test]
fn both_have_one_version_and_one_help() {
    let output = |program: &str, argument: &str| Command::new(program).arg(argument).output().unwrap().stdout;
    for argument in ["--version", "--help"] {
        assert_eq!(output(DAEMON, argument), output(TOOLS, argument));
    }
    let refused = Command::new(TOOLS).arg("serve").output().unwrap();
    assert_eq!(refused.status.code(), Some(64), "the tools never serve");
}
