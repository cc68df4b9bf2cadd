//! Finds the programs that the tests run. `tests/run` installs them; nothing is installed here.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The binary under test: the one that the environment names (a release build), else the one that cargo built.
pub fn plugin() -> PathBuf {
    std::env::var_os("KMS_TESTED_BINARY")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_kms-plugin")), PathBuf::from)
}

/// [`PATIENCE`](super::PATIENCE) as the Go client's `-timeout` reads it.
pub const GO_PATIENCE: &str = "90s";

/// Where `tests/run` puts what it installs.
fn installed() -> PathBuf {
    // The binary is `target/debug/kms-plugin`.
    Path::new(env!("CARGO_BIN_EXE_kms-plugin")).ancestors().nth(2).unwrap().join("tools/bin")
}

/// A program on PATH, or else one that `tests/run` installed.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain([installed()]);
    directories.map(|directory| directory.join(name)).find(|path| path.is_file())
}

fn missing(name: &str) -> ! {
    panic!("{name} is neither on PATH nor in target/tools: `tests/run` installs it and runs the tests")
}

/// The server's program: `bao` or `vault`.
pub fn server(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| missing(name))
}

/// `etcd`, `etcdctl` or `etcdutl`.
pub fn etcd(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| missing(name))
}

/// The API server's own client, built from `tests/go-client`. `None` only where the environment says that there is
/// no Go: without it the tests fail, so that none is skipped unnoticed.
pub fn go_client() -> Option<PathBuf> {
    if std::env::var_os("KMS_PLUGIN_TESTS_WITHOUT_GO").is_some_and(|value| value == "1") {
        eprintln!("NOT TESTED: the API server's own Go client (KMS_PLUGIN_TESTS_WITHOUT_GO=1)");
        return None;
    }
    let client = installed().join("go-client");
    let built = changed(&client).unwrap_or_else(|| missing("go-client"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go-client");
    for file in ["go.mod", "go.sum", "main.go", "plugin.go", "pod.go", "transformer.go"] {
        assert!(
            changed(&source.join(file)) <= Some(built),
            "tests/go-client/{file} is newer than {}: `tests/run` builds it and runs the tests",
            client.display()
        );
    }
    Some(client)
}

fn changed(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}
