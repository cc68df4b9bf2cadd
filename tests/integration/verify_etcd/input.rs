//! Input: large values, resources of a configuration, input other than etcdctl's. And output on terminals.

use std::fs;
use std::process::{Command, Stdio};

use super::{asked, count, noise, piped};
use crate::support::etcd::Etcd;

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
async fn resources_are_taken_from_an_encryption_configuration() {
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
                - resources: [secrets, certificates.cert-manager.io]\n  \
                providers: [{kms: {apiVersion: v2, name: a, endpoint: 'unix:///run/kms.sock'}}]\n\
                - resources: [oauthaccesstokens.oauth.openshift.io]\n  \
                providers: [{kms: {apiVersion: v2, name: b, endpoint: 'unix:///run/kms.sock'}}]\n";
    let run = with(good);
    assert_eq!(run.code, 1, "{}", run.error);
    for words in [
        "certificates.cert-manager.io web/tls: plain",
        "secrets a/b: plain",
        "oauthaccesstokens.oauth.openshift.io (withheld: a token): plain",
    ] {
        assert!(run.out.contains(words) && !run.out.contains("configmaps"), "{words:?}: {}", run.out);
    }
    // Where nothing is to be encrypted, plain is right.
    let plain = with(
        &good
            .replace("kms: {apiVersion: v2, name: a, endpoint: 'unix:///run/kms.sock'}", "identity: {}")
            .replace("kms: {apiVersion: v2, name: b, endpoint: 'unix:///run/kms.sock'}", "identity: {}"),
    );
    assert!(plain.code == 0 && plain.out.contains("plain, as configured"), "{} {}", plain.out, plain.error);
    with(&good.replace("secrets", "'*.rbac.authorization.k8s.io'"))
        .fails(64, "\"*.rbac.authorization.k8s.io\"");
    with("kind: Secret\n").fails(64, "its kind is not EncryptionConfiguration");
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n";
    with(head).fails(64, "resources: is empty");
    let secret = with(&format!("{head}resources: aHVudGVyMg==\n"));
    secret.fails(64, "is not a list (line 3)");
    assert!(!secret.error.contains("aHVudGVyMg"), "{}", secret.error);
    asked(&etcd, &["--encryption-config", "/nonexistent"]).fails(64, "/nonexistent cannot be read");
    // With one prefix below another, no object counts twice.
    let twice =
        asked(&etcd, &["--prefix", "/registry/", "--prefix", "/registry/secrets/", "--output", "json"]);
    assert_eq!(twice.json()["objects"], 3, "{}", twice.out);
}

#[test]
fn input_other_than_etcdctls_is_refused() {
    piped(b"", &[]).fails(69, "the input is empty");
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
    piped(b"{\"header\":{},\"kvs\":[{\"key\":\"L2EvYi9j\"}],\"count\":1}", &[])
        .fails(64, "without --keys-only");
    piped(b"/registry/secrets/a/b\n\n/registry/secrets/a/c\n\n", &[]).fails(64, "without --keys-only");
    // A part of etcd cannot answer a question about all of it.
    piped(cut, &["--may-remove"]).fails(64, "--complete");
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
async fn output_fits_terminals_and_survives_closed_pipes() {
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

    let part = etcd.get(&["get", "--prefix", "/registry/", "--limit", "7", "-w", "json"]);
    piped(&part, &[]).fails(69, "7 of 3000 objects");

    // The reader closes the pipe: the exit code is still right, and there is no error message.
    let line = format!(
        "set -o pipefail; {binary} verify-etcd --endpoint {} --list 3000 | head -1; echo ${{PIPESTATUS[0]}}",
        etcd.endpoint
    );
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("source ") && text.ends_with("\n1\n") && output.stderr.is_empty(), "{text}");
}
