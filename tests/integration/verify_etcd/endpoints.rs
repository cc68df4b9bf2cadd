//! Endpoints: TLS, client certificates, unusable endpoints, and a revision that is compacted.

use std::path::Path;

use serde_json::json;

use super::{asked, run, verify_etcd};
use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::pki::Pki;

#[tokio::test]
async fn etcd_with_client_certificates_is_read() {
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
    // etcdctl's own variables: several endpoints in one, without a scheme.
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
async fn unusable_endpoints_are_reported() {
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

    // A server that accepts connections and never answers; the short time is what this is about.
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
async fn a_compaction_while_reading_is_reported() {
    let etcd = Etcd::start().await;
    let objects = |from: u64| {
        (from..from + 5000)
            .map(|number| (format!("/registry/secrets/a/{number}"), b"k8s\0 a plain one".to_vec()))
    };
    etcd.put_all(objects(0)).await;
    // A compaction falls between two pages by chance: repeat until one did.
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
