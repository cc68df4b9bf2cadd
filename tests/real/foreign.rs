//! The command lines of OpenShift's guide and of its operator, as they are, each with a real client.

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::agent::Agent;
use crate::support::bao::{Bao, KEY, write_secret};

/// Starts the binary with these arguments and variables alone, on `kms.sock` in a directory of its own.
async fn started(socket_flag: &str, arguments: &[String], variables: &[(&str, String)]) -> Agent {
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("{socket_flag}=unix://{}", directory.path().join("kms.sock").display());
    let run = directory.path().join("run");
    let agent = Agent::start_with(directory, "", |_| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kms-plugin"));
        command.arg(socket).args(arguments).arg("--server-runtime-dir").arg(run);
        command.env_clear().envs(variables.iter().map(|(name, value)| (name, value)));
        command
    });
    agent.wait_for_phase("ready").await;
    agent
}

fn text(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

fn secret(bao: &Bao, name: &str) -> String {
    std::fs::read_to_string(bao.file(name)).unwrap().trim().to_owned()
}

async fn serves(agent: &Agent) {
    assert_eq!(agent.kms().await.status().await.unwrap().healthz, "ok");
    agent.kms().await.round_trip().await;
}

#[tokio::test]
async fn the_guides_static_pod_with_each_of_its_methods() {
    let bao = Bao::start().await;
    bao.post("sys/auth/userpass", json!({ "type": "userpass" })).await;
    bao.post("auth/userpass/users/kms", json!({ "password": "pa55-w0rd", "token_policies": "kms" })).await;
    let token = bao.post("auth/token/create", json!({ "policies": ["kms"], "ttl": "1h" })).await;
    let token = token["auth"]["client_token"].as_str().unwrap().to_owned();
    let (role, secret) = (secret(&bao, "role-id"), secret(&bao, "secret-id"));
    let common = [
        format!("-vault-address={}", bao.address),
        "-transit-mount=transit".into(),
        format!("-transit-key={KEY}"),
        "-metrics-port=0".into(),
        "-force-socket-overwrite".into(),
        "-token-refresh-interval=60s".into(),
    ];
    let methods = [
        (
            vec![
                "-auth-method=approle".into(),
                format!("-approle-role-id={role}"),
                format!("-approle-secret-id={secret}"),
            ],
            secret.as_str(),
        ),
        (
            text(&["-auth-method=userpass", "-userpass-username=kms", "-userpass-password=pa55-w0rd"]),
            "pa55-w0rd",
        ),
        (vec!["-auth-method".into(), "token".into(), "-token".into(), token.clone()], token.as_str()),
    ];
    for (method, secret) in methods {
        let agent = started("-socket", &[&common[..], &method].concat(), &[]).await;
        serves(&agent).await;
        agent.wait_for_log("is a secret that every user of this machine can read").await;
        let log = agent.log();
        assert!(log.contains("-force-socket-overwrite has no effect"), "{log}");
        assert!(!log.contains(secret), "a secret is in the log");
        assert!(!agent.status().unwrap().to_string().contains(secret));
        // A reload reads the same command line again: the secret is still there.
        agent.signal(Signal::SIGHUP);
        agent.wait_for_log("the configuration was reloaded").await;
        serves(&agent).await;
    }
}

#[tokio::test]
async fn the_operators_sidecar_by_flags_and_by_variables() {
    let bao = Bao::start().await;
    let path = bao.file("pod-secret");
    write_secret(&path, &secret(&bao, "secret-id"));
    // As a pod's volume has it.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let named = [
        ("vault-address", bao.address.clone()),
        ("vault-key-path", format!("transit/keys/{KEY}")),
        ("approle-role-id", secret(&bao, "role-id")),
        ("approle-secret-id-path", path.display().to_string()),
        ("vault-namespace", String::new()),
        ("metrics-port", "0".to_owned()),
        ("vault-connection-timeout", "10s".to_owned()),
        ("zap-log-level", "info".to_owned()),
    ];
    for dashes in ["-", "--"] {
        let flags: Vec<String> =
            named.iter().map(|(name, value)| format!("{dashes}{name}={value}")).collect();
        let agent = started(&format!("{dashes}listen-address"), &flags, &[]).await;
        serves(&agent).await;
        assert!(!agent.log().contains("health on http"), "no port is opened: {}", agent.log());
    }
    let variable = |name: &str| format!("VAULT_KUBE_KMS_{}", name.replace('-', "_").to_uppercase());
    let names: Vec<String> = named.iter().map(|(name, _)| variable(name)).collect();
    let variables: Vec<_> =
        names.iter().map(String::as_str).zip(named.iter().map(|(_, value)| value.clone())).collect();
    serves(&started("-listen-address", &[], &variables).await).await;
}

#[tokio::test]
async fn the_health_port_is_open_to_the_kubelet_and_says_so() {
    let bao = Bao::start().await;
    let port = std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let flags = [
        format!("-vault-address={}", bao.address),
        format!("-transit-key={KEY}"),
        format!("-approle-role-id={}", secret(&bao, "role-id")),
        format!("-approle-secret-id-path={}", bao.file("secret-id").display()),
        format!("-health-port={port}"),
    ];
    let agent = started("-socket", &flags, &[]).await;
    let answer = reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(crate::support::pki::Pki::no_tls())
        .build()
        .unwrap()
        .get(format!("http://127.0.0.2:{port}/livez"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    agent.wait_for_log("without TLS, for the kubelet's probes").await;
}
