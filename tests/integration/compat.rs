//! The command lines of OpenShift's guide and of its operator work unchanged, each with a real client.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::agent::Agent;
use crate::support::eventually;
use crate::support::kms::Kms;
use crate::support::tools;
use crate::support::vault::{KEY, Vault, write_secret};

/// Starts the binary with these arguments and variables alone, on `kms.sock` in a directory of its own.
pub async fn started(socket_flag: &str, arguments: &[String], variables: &[(&str, String)]) -> Agent {
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

fn secret(vault: &Vault, name: &str) -> String {
    std::fs::read_to_string(vault.file(name)).unwrap().trim().to_owned()
}

async fn serves(agent: &Agent) {
    assert_eq!(agent.kms().await.status().await.unwrap().healthz, "ok");
    agent.kms().await.round_trip().await;
}

#[tokio::test]
async fn the_guides_static_pod_serves_with_each_login_method() {
    let vault = Vault::start().await;
    vault.post("sys/auth/userpass", json!({ "type": "userpass" })).await;
    vault.post("auth/userpass/users/kms", json!({ "password": "pa55-w0rd", "token_policies": "kms" })).await;
    let token = vault.post("auth/token/create", json!({ "policies": ["kms"], "ttl": "1h" })).await;
    let token = token["auth"]["client_token"].as_str().unwrap().to_owned();
    let (role, secret) = (secret(&vault, "role-id"), secret(&vault, "secret-id"));
    let common = [
        format!("-vault-address={}", vault.address),
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
        // A reload reads the same command line again, which still holds the secret.
        agent.signal(Signal::SIGHUP);
        agent.wait_for_log("the configuration was reloaded").await;
        serves(&agent).await;
    }
}

#[tokio::test]
async fn the_operators_sidecar_serves_by_flags_and_by_variables() {
    let vault = Vault::start().await;
    let path = vault.file("pod-secret");
    write_secret(&path, &secret(&vault, "secret-id"));
    // The mode that files in a pod's volume have.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let named = [
        ("vault-address", vault.address.clone()),
        ("vault-key-path", format!("transit/keys/{KEY}")),
        ("approle-role-id", secret(&vault, "role-id")),
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
async fn the_health_port_is_open_to_the_kubelet_and_this_is_logged() {
    let vault = Vault::start().await;
    let port = std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let flags = [
        format!("-vault-address={}", vault.address),
        format!("-transit-key={KEY}"),
        format!("-approle-role-id={}", secret(&vault, "role-id")),
        format!("-approle-secret-id-path={}", vault.file("secret-id").display()),
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

/// The operator's flags for one sidecar, with those that have no value.
fn sidecar(vault: &Vault, socket: &Path) -> Vec<String> {
    vec![
        format!("-listen-address=unix://{}", socket.display()),
        format!("-vault-address={}", vault.address),
        format!("-vault-key-path=transit/keys/{KEY}"),
        format!("-approle-role-id={}", secret(vault, "role-id")),
        format!("-approle-secret-id-path={}", vault.file("secret-id").display()),
        "-tls-ca-file=".to_owned(),
        "-tls-sni=".to_owned(),
        "--vault-namespace=".to_owned(),
        "--vault-auth-namespace=".to_owned(),
        "-metrics-port=0".to_owned(),
    ]
}

/// As the operator runs them: user 0 without capabilities on a read-only root, in an emptyDir (mode 0777), and
/// two at once while a key is replaced.
#[tokio::test]
async fn two_sidecars_share_a_volume_and_nothing_else() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("NOT TESTED: a read-only root takes a mount namespace, and so root");
        return;
    }
    let vault = Vault::start().await;
    // A Secret that was made from a file often ends with a line end.
    let with_line_end = secret(&vault, "secret-id") + "\n";
    std::fs::write(vault.file("secret-id"), with_line_end).unwrap();
    let volume = tempfile::tempdir().unwrap();
    std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut agents = Vec::new();
    for number in [1, 2] {
        let socket = volume.path().join(format!("kms-{number}.sock"));
        // A read-only /run stands for the read-only root: the agent writes nowhere else.
        let script = "mount --make-rprivate / && mount -t tmpfs -o ro none /run \
                      && exec setpriv --inh-caps=-all --bounding-set=-all --no-new-privs \"$@\"";
        let arguments = sidecar(&vault, &socket);
        let agent = Agent::start_with(tempfile::tempdir().unwrap(), "", |_| {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_kms-plugin")]);
            command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
            command
        });
        eventually("the sidecar", async || {
            std::os::unix::net::UnixStream::connect(&socket)
                .map_err(|error| format!("{error}\n{}", agent.log()))?;
            let status = Kms::connect(&socket).await.status().await.map_err(|error| error.to_string())?;
            if status.healthz == "ok" { Ok(()) } else { Err(status.healthz) }
        })
        .await;
        Kms::connect(&socket).await.round_trip().await;
        // The operator's preflight, with the API server's own client.
        if let Some(client) = tools::go_client() {
            let output =
                Command::new(client).args(["-mode", "preflight", "-socket"]).arg(&socket).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let beside = volume.path().join(format!(".kms-{number}.sock.run"));
        assert!(beside.join("identity.json").exists(), "{}", agent.log());
        agents.push(agent);
    }
    assert_eq!(std::fs::metadata(&volume).unwrap().mode() & 0o7777, 0o1777, "nobody replaces the sockets");
    // The first one sets the sticky bit, the second one finds it set.
    let told: Vec<bool> = agents.iter().map(|agent| agent.log().contains("has the sticky bit now")).collect();
    assert_eq!(told, [true, false]);
}

/// Two variables that do not follow the naming rule, and the paths of the probes, as their documentation has them.
#[tokio::test]
async fn the_documented_variables_and_probes_of_other_plugins_work() {
    let vault = Vault::start().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let variables = [
        ("VAULT_KMS_VAULT_ADDR", vault.address.clone()),
        ("VAULT_KMS_TRANSIT_KEY", KEY.to_owned()),
        ("VAULT_KMS_APPROLE_ROLE_ID", secret(&vault, "role-id")),
        ("VAULT_KMS_APPROLE_SECRET_ID", secret(&vault, "secret-id")),
        ("VAULT_KMS_VAULT_NAMESPACE", String::new()),
        ("VAULT_KMS_SERVICE_HOST", "10.0.0.1".to_owned()),
        ("VAULT_KMS_TOKEN_RENEWAL_SECONDS", "3600".to_owned()),
    ];
    let flags = text(&["-token-renewal", "3600", &format!("-health-port={port}")]);
    let agent = started("-socket", &flags, &variables).await;
    serves(&agent).await;
    assert!(agent.log().contains("_RENEWAL_SECONDS has no effect"), "{}", agent.log());
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(crate::support::pki::Pki::no_tls())
        .build()
        .unwrap();
    for path in ["health", "live", "livez", "readyz"] {
        let answer = http.get(format!("http://127.0.0.1:{port}/{path}")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "/{path}");
    }
}

#[test]
fn a_wrong_flag_is_reported_with_a_suggestion() {
    use std::os::unix::ffi::OsStrExt as _;
    for (argument, words) in [
        ("-vault-addres=x", &["unexpected argument '--vault-addres", "-vault-address", "docs/flags.md"][..]),
        ("--no-such-thing", &["unexpected argument '--no-such-thing'"]),
        ("-vault-key-path=k", &["transit/keys/kms-key"]),
    ] {
        // A variable of another program that is not UTF-8 does no harm.
        let output = crate::support::agent::command()
            .arg(argument)
            .env("SOMEBODY_ELSES", std::ffi::OsStr::from_bytes(b"\xff"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{said}");
        for words in words {
            assert!(said.contains(words), "{words:?} in {said}");
        }
    }
}

/// Without a configuration file (no machine of the tests has /etc/kms-plugin) much is missing, and the bad value comes
/// before that.
#[test]
fn a_bad_value_is_told_first() {
    for (argument, first) in [
        ("-auth-method=foo", "--vault-auth-method: vault.auth.method: \"foo\" is not one of"),
        ("-vault-address=nowhere", "--vault-addresses: vault.addresses: \"nowhere\" has no scheme"),
    ] {
        let output = crate::support::agent::command().arg(argument).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(lines[0].contains(first), "{said}");
    }
}
