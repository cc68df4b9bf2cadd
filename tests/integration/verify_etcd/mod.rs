//! `verify-etcd` on a real etcd, with data that a real agent and a real OpenBao wrapped.

mod endpoints;
mod input;
mod offline;
mod questions;

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_plugin::proto::EncryptResponse;
use serde_json::{Value, json};

use crate::support::agent::{Agent, LOCAL_KEK, QUICK, command};
use crate::support::etcd::{EncryptedObject, Etcd};
use crate::support::eventually;
use crate::support::kms::{Kms, SEED};
use crate::support::memory::{PEAK, memory};
use crate::support::tools;
use crate::support::vault::Vault;

/// What a run gave: the exit code, stdout and stderr.
struct Run {
    code: i32,
    out: String,
    error: String,
}

impl Run {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{}{}", self.out, self.error))
    }

    #[track_caller]
    fn fails(&self, code: i32, words: &str) {
        let right = self.code == code && self.out.is_empty() && self.error.contains(words);
        assert!(right, "{words:?}, {code}: {} {}{}", self.code, self.out, self.error);
    }
}

/// The command, without etcdctl's variables and without an agent but the one that is named.
fn verify_etcd() -> Command {
    let mut command = command();
    for name in ["ENDPOINTS", "CACERT", "CERT", "KEY"] {
        command.env_remove(format!("ETCDCTL_{name}"));
    }
    command.arg("verify-etcd").env("KMS_PLUGIN_SERVER_RUNTIME_DIR", "/nonexistent");
    command
}

fn run(mut command: Command, input: &[u8]) -> Run {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code().unwrap(), out: text(output.stdout), error: text(output.stderr) }
}

/// Runs it on what came from etcdctl.
fn piped(input: &[u8], arguments: &[&str]) -> Run {
    let mut command = verify_etcd();
    command.arg("-").args(arguments);
    run(command, input)
}

/// Runs it on etcd itself.
fn asked(etcd: &Etcd, arguments: &[&str]) -> Run {
    let mut command = verify_etcd();
    command.args(etcd.flags("--endpoint")).args(arguments);
    run(command, b"")
}

/// Bytes as ciphertext is: newlines, braces and slashes among them. The same for the same seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(next).take(length).collect();
    bytes.extend_from_slice(b"\n{\n/registry/secrets/a/b\n\n");
    bytes
}

/// A value as the API server stores it, under what the agent answers now.
async fn value(kms: &mut Kms, length: usize) -> Vec<u8> {
    stored(kms.encrypt(&SEED).await.unwrap(), length)
}

/// The same, with this answer to an Encrypt.
fn stored(wrapped: EncryptResponse, length: usize) -> Vec<u8> {
    let mut annotations = HashMap::from([("version.encryption.remote.io".to_owned(), b"1".to_vec())]);
    annotations.extend(wrapped.annotations);
    let object = EncryptedObject {
        encrypted_data: noise(length as u64, length),
        key_id: wrapped.key_id,
        encrypted_dek_source: wrapped.ciphertext,
        annotations,
        encrypted_dek_source_type: 1,
    };
    let head = b"k8s:enc:kms:v2:kms-plugin:".as_slice();
    [head, prost::Message::encode_to_vec(&object).as_slice()].concat()
}

async fn rotated(vault: &Vault, agent: &Agent, version: u32) {
    vault.rotate().await;
    eventually("the new version", async || {
        let status = agent.status()?;
        if status["primary"]["key"]["version"] == version { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

/// The number of objects of a resource in a state.
fn count(report: &Value, resource: &str, state: &str) -> u64 {
    let groups = report["groups"].as_array().unwrap();
    let of = groups.iter().filter(|group| group["resource"] == resource && group["state"] == state);
    of.map(|group| group["objects"].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn a_rotation_is_finished_when_every_object_was_rewritten() {
    let (vault, etcd) = (Vault::start().await, Etcd::start().await);
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let runtime = agent.directory.path().join("run").display().to_string();
    let mut kms = agent.kms().await;
    let names = ["one", "two", "three"];
    for name in names {
        etcd.put(&format!("/registry/secrets/default/{name}"), &value(&mut kms, 300).await);
    }
    let judged = ["--runtime-dir", &runtime, "--list", "2"];
    let done = asked(&etcd, &judged);
    assert!(done.code == 0 && done.error.is_empty(), "{}{}", done.out, done.error);
    for words in [
        "finished: 3 objects, all under the current key_id v1.",
        "nothing is below /registry/configmaps/",
        "Transit version 1  provider kms-plugin  key_id v1.",
        "from the running agent",
        &etcd.endpoint,
    ] {
        assert!(done.out.contains(words), "{words:?}: {}", done.out);
    }

    rotated(&vault, &agent, 2).await;
    etcd.put("/registry/secrets/default/one", &value(&mut kms, 300).await);
    etcd.put("/registry/configmaps/web/plain", b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap");
    let left = asked(&etcd, &judged);
    assert_eq!(left.code, 1, "{}{}", left.out, left.error);
    for words in [
        "not finished: 2 secrets under version 1, 1 configmaps plain; rewrite them: kms-plugin rewrite --resource configmaps,secrets",
        "configmaps web/plain: plain\nsecrets default/three: version 1\n",
    ] {
        assert!(left.out.contains(words), "{words:?}: {}", left.out);
    }
    // The same from each output format of etcdctl, although the values are full of newlines.
    let all = ["get", "--prefix", "/registry/"];
    for (more, exact) in [(&["-w", "json"][..], true), (&[], false), (&["--print-value-only"], false)] {
        let report =
            piped(&etcd.get(&[&all, more].concat()), &["--runtime-dir", &runtime, "--output", "json"]);
        assert_eq!(report.code, 1, "{}{}", report.out, report.error);
        let report = report.json();
        let resource =
            |name: &str| if more == ["--print-value-only"] { "(unknown)" } else { name }.to_owned();
        assert_eq!(count(&report, &resource("secrets"), "current"), 1, "{report}");
        assert_eq!(count(&report, &resource("secrets"), "older"), 2, "{report}");
        assert_eq!(count(&report, &resource("configmaps"), "plain"), 1, "{report}");
        assert_eq!((&report["exact"], &report["finished"]), (&json!(exact), &json!(false)));
    }
    // Nobody tells the current key_id, but two cannot both be current.
    let unknown = asked(&etcd, &["--prefix", "/registry/secrets/"]);
    assert!(
        unknown.code == 1 && unknown.out.contains("2 key_ids in use"),
        "{}{}",
        unknown.out,
        unknown.error
    );

    for name in ["two", "three"] {
        etcd.put(&format!("/registry/secrets/default/{name}"), &value(&mut kms, 300).await);
    }
    let secrets = asked(&etcd, &["--prefix", "/registry/secrets/", "--runtime-dir", &runtime]);
    assert!(
        secrets.code == 0 && secrets.out.contains("Transit version 2"),
        "{}{}",
        secrets.out,
        secrets.error
    );
    let unknown = asked(&etcd, &["--prefix", "/registry/secrets/"]);
    assert!(unknown.code == 69 && unknown.out.contains("not judged: 3 objects"), "{}", unknown.out);
    let key_id = kms.status().await.unwrap().key_id;
    let named = ["--prefix", "/registry/secrets/", "--current-key-id", &key_id];
    assert_eq!(asked(&etcd, &named).code, 0);
    let other = asked(&etcd, &[&named[..], &["--provider", "another"]].concat());
    assert!(other.code == 1 && other.out.contains("under another KMS provider"), "{}", other.out);
    // The report shows no stored value.
    assert!(!left.out.contains("vault:v1:") && !left.out.contains("ConfigMap"), "{}", left.out);
}

/// Runs it; its result, and the most memory that it used, in KiB.
async fn watched(mut command: Command, input: Stdio) -> (Run, u64) {
    let child = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let process = child.id();
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let mut most = 0;
    while !ended.is_finished() {
        most = most.max(memory(process, PEAK).unwrap_or_default());
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let output = ended.await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (Run { code: output.status.code().unwrap(), out: text(output.stdout), error: text(output.stderr) }, most)
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_objects_need_little_memory() {
    const OBJECTS: u64 = 20_000;
    const MOST: u64 = 48 * 1024;
    let (vault, etcd) = (Vault::start().await, Etcd::start().await);
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let mut kms = agent.kms().await;
    let old = value(&mut kms, 2600).await;
    rotated(&vault, &agent, 2).await;
    let new = value(&mut kms, 2600).await;
    let objects = (0..OBJECTS).map(|number| {
        let value = if number % 1000 == 7 { &old } else { &new };
        (format!("/registry/secrets/team-{}/secret-{number}", number % 50), value.clone())
    });
    etcd.put_all(objects).await;

    let runtime = agent.directory.path().join("run");
    let prepared = |arguments: &[String]| {
        let mut command = verify_etcd();
        command.args(arguments).arg("--runtime-dir").arg(&runtime).args(["--output", "json"]);
        command
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), etcd.get(&["get", "--prefix", "/registry/", "-w", "json"])).unwrap();
    let written = fs::metadata(file.path()).unwrap().len() / 1024;
    assert!(written > MOST, "{written} KiB are too few to prove anything");
    let document = Stdio::from(fs::File::open(file.path()).unwrap());
    for (run, peak) in [
        watched(prepared(&etcd.flags("--endpoint")), Stdio::null()).await,
        watched(prepared(&["-".to_owned()]), document).await,
    ] {
        assert_eq!(run.code, 1, "{}{}", run.out, run.error);
        assert!(run.error.is_empty(), "no progress where stderr is no terminal: {}", run.error);
        let report = run.json();
        assert_eq!((&report["objects"], &report["left"]), (&OBJECTS.into(), &20.into()), "{report}");
        assert_eq!(count(&report, "secrets", "older"), 20);
        eprintln!("{} objects, {written} KiB as JSON: peak {peak} KiB", report["objects"]);
        assert!(peak > 0 && peak < MOST, "{peak} KiB");
    }
}

/// Values that the API server's own code stored.
#[tokio::test]
async fn values_of_the_api_server_are_recognised() {
    let Some(client) = tools::go_client() else { return };
    for (local_kek, mode) in [("", "direct"), (LOCAL_KEK, "local_kek")] {
        recognised(&client, local_kek, mode).await;
    }
}

async fn recognised(client: &Path, local_kek: &str, mode: &str) {
    let (vault, etcd) = (Vault::start().await, Etcd::start().await);
    let agent = Agent::ready(&(vault.vault_config() + QUICK + local_kek)).await;
    let runtime = agent.directory.path().join("run").display().to_string();
    let socket = agent.socket().display().to_string();
    let rendered = command()
        .args(["render", "encryption-config", "--resources", "secrets", "--config"])
        .arg(agent.directory.path().join("config.toml"))
        .output()
        .unwrap();
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let file = agent.directory.path().join("encryption.yaml");
    fs::write(&file, rendered.stdout).unwrap();
    let stored = Command::new(client)
        .args(["-mode", "transformer", "-socket", &socket, "-file"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(stored.status.success(), "{}", String::from_utf8_lossy(&stored.stderr));
    let stored: Value = serde_json::from_slice(&stored.stdout).unwrap();
    let value = STANDARD.decode(stored["stored"].as_str().unwrap()).unwrap();
    etcd.put("/registry/secrets/default/go-client", &value);
    let (file, key_id) = (file.display().to_string(), stored["key_id"].as_str().unwrap());
    let run = asked(
        &etcd,
        &[
            "--encryption-config",
            &file,
            "--provider",
            "kms-plugin",
            "--current-key-id",
            key_id,
            "--runtime-dir",
            &runtime,
            "--output",
            "json",
        ],
    );
    let group = &run.json()["groups"][0];
    assert_eq!(
        (run.code, &group["state"], &group["transit_version"], &group["mode"]),
        (0, &json!("current"), &json!(1), &json!(mode)),
        "{}",
        run.out
    );
    let readable = if local_kek.is_empty() { Value::Null } else { Value::Bool(true) };
    assert_eq!(group["readable_offline"], readable, "{}", run.out);
}
