//! `verify-etcd` against a real etcd, with what a real agent and a real OpenBao wrapped.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::agent::{Agent, QUICK, command};
use crate::support::bao::Bao;
use crate::support::etcd::{EncryptedObject, Etcd};
use crate::support::eventually;
use crate::support::kms::{Kms, SEED};
use crate::support::pki::Pki;

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
    let wrapped = kms.encrypt(&SEED).await.unwrap();
    let object = EncryptedObject {
        encrypted_data: noise(length as u64, length),
        key_id: wrapped.key_id,
        encrypted_dek_source: wrapped.ciphertext,
        annotations: HashMap::from([("version.encryption.remote.io".to_owned(), b"1".to_vec())]),
        encrypted_dek_source_type: 1,
    };
    let head = b"k8s:enc:kms:v2:kms-plugin:".as_slice();
    [head, prost::Message::encode_to_vec(&object).as_slice()].concat()
}

async fn rotated(bao: &Bao, agent: &Agent, version: u32) {
    bao.rotate().await;
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
async fn a_rotation_is_finished_when_all_was_written_anew() {
    let (bao, etcd) = (Bao::start().await, Etcd::start().await);
    let agent = Agent::ready(&(bao.vault_config() + QUICK)).await;
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

    rotated(&bao, &agent, 2).await;
    etcd.put("/registry/secrets/default/one", &value(&mut kms, 300).await);
    etcd.put("/registry/configmaps/web/plain", b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap");
    let left = asked(&etcd, &judged);
    assert_eq!(left.code, 1, "{}{}", left.out, left.error);
    for words in [
        "not finished: 2 secrets under version 1, 1 configmaps plain; rewrite them: kubectl get configmaps,secrets -A -o json | kubectl replace -f -",
        "configmaps web/plain: plain\nsecrets default/three: version 1\n",
    ] {
        assert!(left.out.contains(words), "{words:?}: {}", left.out);
    }
    // The same from each form that etcdctl writes, although the values are full of newlines.
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
    // Without anybody who knows the current key: two key_ids cannot both be.
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
    assert!(unknown.code == 0 && unknown.out.contains("not judged: 3 objects"), "{}", unknown.out);
    let key_id = kms.status().await.unwrap().key_id;
    let named = ["--prefix", "/registry/secrets/", "--current-key-id", &key_id];
    assert_eq!(asked(&etcd, &named).code, 0);
    let other = asked(&etcd, &[&named[..], &["--provider", "another"]].concat());
    assert!(other.code == 1 && other.out.contains("under another KMS provider"), "{}", other.out);
    // No form shows what is stored.
    assert!(!left.out.contains("vault:v1:") && !left.out.contains("ConfigMap"), "{}", left.out);
}

/// Runs it, and watches the most memory that it ever had, in KiB.
async fn watched(mut command: Command, input: Stdio) -> (Run, u64) {
    let child = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let mut most = 0;
    while !ended.is_finished() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let peak = text
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        most = most.max(peak.unwrap_or_default());
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let output = ended.await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (Run { code: output.status.code().unwrap(), out: text(output.stdout), error: text(output.stderr) }, most)
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_objects_need_little_memory() {
    const OBJECTS: u64 = 20_000;
    const MOST: u64 = 64 * 1024;
    let (bao, etcd) = (Bao::start().await, Etcd::start().await);
    let agent = Agent::ready(&(bao.vault_config() + QUICK)).await;
    let mut kms = agent.kms().await;
    let old = value(&mut kms, 4000).await;
    rotated(&bao, &agent, 2).await;
    let new = value(&mut kms, 4000).await;
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

#[tokio::test]
async fn large_values_come_in_small_pages() {
    let etcd = Etcd::start().await;
    for number in 0..12 {
        let value = [b"k8s\0".as_slice(), &noise(number, 1_400_000)].concat();
        etcd.put(&format!("/registry/configmaps/a/{number}"), &value);
    }
    let report = asked(&etcd, &["--output", "json"]);
    assert_eq!((report.code, count(&report.json(), "configmaps", "plain")), (1, 12), "{}", report.out);

    // More than etcd takes by default, and more than is read.
    let etcd = Etcd::with(None, &["--max-request-bytes", "20000000"]).await;
    etcd.put("/registry/configmaps/a/small", b"k8s\0");
    let large = [b"k8s\0".as_slice(), &noise(1, 7_000_000)].concat();
    etcd.put_all([("/registry/configmaps/b/large".to_owned(), large)].into_iter()).await;
    asked(&etcd, &[]).fails(69, "is larger than 4 MiB");
    let document = etcd.get(&["get", "--prefix", "/registry/", "-w", "json"]);
    piped(&document, &[]).fails(69, "/registry/configmaps/b/large is larger than 4 MiB");
    let simple = etcd.get(&["get", "--prefix", "/registry/"]);
    piped(&simple, &[]).fails(69, "/registry/configmaps/b/large is larger than 4 MiB");
}

#[tokio::test]
async fn etcd_with_client_certificates() {
    let pki = Pki::new(&["127.0.0.1"]);
    let etcd = Etcd::with(Some(&pki), &[]).await;
    etcd.put("/registry/secrets/a/b", b"k8s:enc:secretbox:v1:key1:x");
    let run_with = |arguments: &[&str]| {
        let mut command = verify_etcd();
        command.args(["--endpoint", &etcd.endpoint]).args(arguments);
        run(command, b"")
    };
    let good = asked(&etcd, &[]);
    assert!(good.code == 1 && good.out.contains("1 secrets under secretbox"), "{}{}", good.out, good.error);
    // As etcdctl's own variables have it, several endpoints in one, and without a scheme.
    let mut by_variables = verify_etcd();
    by_variables
        .env("ETCDCTL_ENDPOINTS", format!("127.0.0.1:1,{}", etcd.endpoint.trim_start_matches("https://")))
        .env("ETCDCTL_CACERT", &pki.ca)
        .env("ETCDCTL_CERT", &pki.client_cert)
        .env("ETCDCTL_KEY", &pki.client_key);
    let by_variables = run(by_variables, b"");
    assert_eq!(by_variables.code, 1, "{}", by_variables.error);

    let path = |path: &Path| path.display().to_string();
    let (ca, cert, key) = (path(&pki.ca), path(&pki.client_cert), path(&pki.client_key));
    let other = Pki::new(&["127.0.0.1"]);
    run_with(&["--cacert", &path(&other.ca), "--cert", &cert, "--key", &key])
        .fails(69, "--cacert names the authority");
    run_with(&["--cacert", &ca]).fails(69, "--cert and --key a client certificate");
    let (foreign, its_key) = (path(&other.client_cert), path(&other.client_key));
    run_with(&["--cacert", &ca, "--cert", &foreign, "--key", &its_key])
        .fails(69, "a client certificate that etcd accepts");
    run_with(&["--cacert", &ca, "--cert", &cert, "--key", &its_key]).fails(69, "do not fit together");
    run_with(&["--cacert", "/nonexistent"]).fails(69, "/nonexistent");
    run_with(&["--cacert", &ca, "--cert", &cert]).fails(64, "--key");
    let plain = etcd.endpoint.replace("https", "http");
    let mut command = verify_etcd();
    command.args(["--endpoint", &plain]);
    run(command, b"").fails(69, "is https:// or http:// right?");
}

#[tokio::test]
async fn endpoints_that_do_not_serve() {
    let asked_at = |endpoint: &str| {
        let mut command = verify_etcd();
        command.args(["--endpoint", endpoint]);
        run(command, b"")
    };
    asked_at("http://127.0.0.1:1").fails(69, "http://127.0.0.1:1: Connection refused");
    asked_at("http://etcd.invalid:2379").fails(69, "etcd.invalid");
    for wrong in ["https://root:hunter2@127.0.0.1", "ftp://127.0.0.1", "http://127.0.0.1/v3", "http://", ""] {
        let run = asked_at(wrong);
        run.fails(64, "an --endpoint is https://host:port");
        assert!(!run.error.contains("hunter2"), "{}", run.error);
    }
    let no_gateway = Etcd::with(None, &["--enable-grpc-gateway=false"]).await;
    asked(&no_gateway, &[])
        .fails(69, "etcdctl get --prefix /registry/secrets/ -w json | kms-plugin verify-etcd -");

    // A server that takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = verify_etcd();
    command.args(["--timeout", "200ms", "--endpoint", &format!("http://{}", silent.local_addr().unwrap())]);
    run(command, b"").fails(69, "no answer within 200ms");

    let etcd = Etcd::start().await;
    asked(&etcd, &[]).fails(69, "no object was found below /registry/configmaps/ and /registry/secrets/");
    asked(&etcd, &["--timeout", "0s"]).fails(64, "--timeout");
    // The first endpoint is down, the second is not.
    etcd.put("/registry/secrets/a/b", b"k8s\0");
    let mut command = verify_etcd();
    command.args(["--endpoint", "http://127.0.0.1:1"]).args(etcd.flags("--endpoint"));
    assert_eq!(run(command, b"").code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_is_compacted_meanwhile() {
    let etcd = Etcd::start().await;
    let objects = |from: u64| {
        (from..from + 5000)
            .map(|number| (format!("/registry/secrets/a/{number}"), b"k8s\0 a plain one".to_vec()))
    };
    etcd.put_all(objects(0)).await;
    // Whether a compaction falls between two pages is chance: until one did.
    eventually("a compaction in the middle", async || {
        let mut command = verify_etcd();
        command.args(etcd.flags("--endpoint"));
        let running = tokio::task::spawn_blocking(move || run(command, b""));
        while !running.is_finished() {
            let put = json!({ "key": "YQ==", "value": "Yg==" });
            let revision = etcd.post("kv/put", &put).await["header"]["revision"].clone();
            etcd.post("kv/compaction", &json!({ "revision": revision })).await;
        }
        let run = running.await.unwrap();
        if run.code == 69 && run.error.contains("compacted revision") {
            Ok(())
        } else {
            Err(run.out + &run.error)
        }
    })
    .await;
}

#[tokio::test]
async fn resources_of_an_encryption_configuration() {
    let etcd = Etcd::start().await;
    for key in [
        "/registry/secrets/a/b",
        "/registry/cert-manager.io/certificates/web/tls",
        "/openshift.io/oauth/accesstokens/c2VjcmV0",
        "/registry/configmaps/a/b",
    ] {
        etcd.put(key, b"{\"kind\":\"Any\"}");
    }
    let directory = tempfile::tempdir().unwrap();
    let with = |text: &str| {
        let file = directory.path().join("encryption.yaml");
        fs::write(&file, text).unwrap();
        asked(&etcd, &["--list", "9", "--encryption-config", &file.display().to_string()])
    };
    let good = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
                - resources: [secrets, certificates.cert-manager.io]\n  providers: [{identity: {}}]\n\
                - resources: [oauthaccesstokens.oauth.openshift.io]\n  providers: [{identity: {}}]\n";
    let run = with(good);
    assert_eq!(run.code, 1, "{}", run.error);
    for words in [
        "certificates.cert-manager.io web/tls: plain",
        "secrets a/b: plain",
        "oauthaccesstokens.oauth.openshift.io (withheld: a token): plain",
    ] {
        assert!(run.out.contains(words) && !run.out.contains("configmaps"), "{words:?}: {}", run.out);
    }
    with(&good.replace("secrets", "'*.apps'")).fails(64, "\"*.apps\"");
    with("kind: Secret\n").fails(64, "its kind is not EncryptionConfiguration");
    with("kind: EncryptionConfiguration\n").fails(64, "names no resources");
    let secret = with("kind: EncryptionConfiguration\nresources: aHVudGVyMg==\n");
    secret.fails(64, "see line");
    assert!(!secret.error.contains("aHVudGVyMg"), "{}", secret.error);
    asked(&etcd, &["--encryption-config", "/nonexistent"]).fails(64, "/nonexistent cannot be read");
    // Prefixes below each other count nothing twice.
    let twice =
        asked(&etcd, &["--prefix", "/registry/", "--prefix", "/registry/secrets/", "--output", "json"]);
    assert_eq!(twice.json()["objects"], 3, "{}", twice.out);
}

#[test]
fn input_that_is_not_etcdctls() {
    piped(b"", &[]).fails(69, "nothing came");
    piped(b"hello", &[]).fails(64, "not what etcdctl get writes");
    piped(b"{\n  \"apiVersion\": \"v1\",\n  \"items\": []\n}", &[]).fails(64, "kubectl's output");
    piped(b"{\"header\":{\"revision\":3}}\n", &[]).fails(69, "no object was found");
    piped(&noise(3, 5000), &[]).fails(64, "not what etcdctl get writes");
    let cut =
        b"{\"header\":{},\"kvs\":[{\"key\":\"L2EvYi9j\",\"value\":\"azhzAA==\"},{\"key\":\"L2EvYi9k\",\"val";
    piped(cut, &[]).fails(69, "ends in the middle, after 1 objects");
    let damaged = piped(b"{\"kvs\":[{\"key\":\"L2EvYi9j\",\"value\":\"hunter2!\"}]}", &[]);
    damaged.fails(69, "line 1, column");
    assert!(!damaged.error.contains("hunter2"), "{}", damaged.error);
    piped(b"", &["--list", "10001"]).fails(64, "--list");
    piped(b"", &["--current-key-id", ""]).fails(64, "--current-key-id");
}

/// Runs a shell line on a terminal of 40 columns: the exit code, and what the terminal showed.
fn on_a_narrow_terminal(line: &str) -> (i32, String) {
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &format!("stty cols 40 rows 20; {line}"), "/dev/null"])
        .env_remove("ETCDCTL_ENDPOINTS")
        .env("KMS_PLUGIN_SERVER_RUNTIME_DIR", "/nonexistent")
        .stdin(Stdio::null())
        .output()
        .expect("script (util-linux) makes a terminal");
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn terminals_and_closed_pipes() {
    let etcd = Etcd::start().await;
    let objects = (0..3000).map(|number| {
        (format!("/registry/secrets/a/{number}"), format!("k8s:enc:aescbc:v1:key-{number}:x").into_bytes())
    });
    etcd.put_all(objects).await;
    let binary = env!("CARGO_BIN_EXE_kms-plugin");
    let (code, shown) = on_a_narrow_terminal(&format!("{binary} verify-etcd"));
    assert!(code == 64 && shown.contains("nothing to read"), "{code} {shown}");
    let (code, shown) = on_a_narrow_terminal(&format!("{binary} verify-etcd --endpoint {}", etcd.endpoint));
    assert!(code == 1 && shown.contains("3,000 secrets under aescbc"), "{code} {shown}");
    assert!(shown.contains("(further)"), "3,000 keys are too many to tell apart: {shown}");
    let (code, shown) = on_a_narrow_terminal(&format!("{binary} verify-etcd --help"));
    assert!(code == 0 && shown.contains("--endpoint") && shown.contains("Exit codes"), "{code} {shown}");

    // A reader that went away: the answer is still the exit code, and nothing complains.
    let line = format!(
        "set -o pipefail; {binary} verify-etcd --endpoint {} --list 3000 | head -1; echo ${{PIPESTATUS[0]}}",
        etcd.endpoint
    );
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("source ") && text.ends_with("\n1\n") && output.stderr.is_empty(), "{text}");
}
