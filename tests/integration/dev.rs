//! `dev`, the first command of a new user.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::agent::command;
use crate::support::kms::Kms;

struct Dev(Child);

impl Dev {
    /// Starts it and reads its first line.
    fn start(directory: &Path) -> (Self, Value) {
        let mut command = command();
        command.args(["dev", "--output", "json", "--directory"]).arg(directory).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (Self(child), serde_json::from_str(&line).unwrap())
    }

    fn interrupt(mut self) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGINT).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[tokio::test]
async fn dev_serves_tests_itself_rotates_and_keeps_its_keys() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("state");
    let (dev, told) = Dev::start(&home);
    assert_eq!(told["self_test"], "ok");
    let socket = Path::new(told["socket"].as_str().unwrap());
    let keyring = Path::new(told["keyring"].as_str().unwrap());
    assert_eq!(std::fs::metadata(keyring).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::metadata(&home).unwrap().mode() & 0o7777, 0o700);
    let mut kms = Kms::connect(socket).await;
    let old = kms.round_trip().await;
    assert_eq!(old.key_id, told["key_id"].as_str().unwrap());

    let rotated =
        command().args(["dev", "--rotate", "--output", "json", "--directory"]).arg(&home).output().unwrap();
    let rotated: Value = serde_json::from_slice(&rotated.stdout).unwrap();
    assert_eq!((&rotated["version"], &rotated["running"]), (&2.into(), &true.into()));
    let new_id = kms.status().await.unwrap().key_id;
    assert_eq!(rotated["key_id"], new_id.as_str());
    assert_ne!(new_id, old.key_id);
    assert_eq!(kms.round_trip().await.key_id, new_id);

    // A second one does not take the socket over.
    let second = command().args(["dev", "--directory"]).arg(&home).output().unwrap();
    assert_eq!(second.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another process serves"));

    dev.interrupt();
    assert!(!socket.exists());
    let (dev, told) = Dev::start(&home);
    assert_eq!(told["key_id"], new_id.as_str());
    assert!(Kms::connect(socket).await.decrypt(&old).await.is_ok());
    dev.interrupt();
}

#[tokio::test]
async fn a_damaged_keyring_is_reported_and_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let (dev, told) = Dev::start(directory.path());
    dev.interrupt();
    let keyring = Path::new(told["keyring"].as_str().unwrap());
    let whole = std::fs::read(keyring).unwrap();
    std::fs::write(keyring, &whole[..whole.len() / 2]).unwrap();
    let failed = command().args(["dev", "--directory"]).arg(directory.path()).output().unwrap();
    assert_eq!(failed.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("damaged"), "{failed:?}");
    assert_eq!(std::fs::read(keyring).unwrap().len(), whole.len() / 2);
}

#[test]
fn dev_shows_what_to_paste() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = command();
    command.args(["dev", "--directory"]).arg(directory.path()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut dev = Dev(command.spawn().unwrap());
    let mut shown = String::new();
    for line in BufReader::new(dev.0.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        shown.push_str(&format!("{line}\n"));
        if line.starts_with("Ctrl-C") {
            break;
        }
    }
    let endpoint = format!("endpoint: unix://{}", directory.path().join("kms.sock").display());
    for words in
        ["DEVELOPMENT ONLY", "self-test  ok", "kind: EncryptionConfiguration", "apiVersion: v2", &endpoint]
    {
        assert!(shown.contains(words), "{words:?} in {shown}");
    }
    dev.interrupt();
}
