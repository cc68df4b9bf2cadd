//! `render`: golden files, and each output is read by the program that it is for.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::support::agent::{Agent, QUICK, command};
use crate::support::eventually;
use crate::support::kms::SEED;
use crate::support::product::Product;
use crate::support::tools;
use crate::support::vault::{KEY, Vault};

const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn render(config: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = command().arg("render").args(arguments).arg("--config").arg(config).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn rendered(config: &Path, arguments: &[&str]) -> String {
    let (code, text, errors) = render(config, arguments);
    assert_eq!(code, 0, "{errors}");
    text
}

/// UPDATE_GOLDEN=1 writes the files again; read the difference before you commit it.
#[test]
fn rendered_files_equal_the_golden_files() {
    let image = format!("registry.example/kms-plugin@sha256:{DIGEST}");
    let package = "https://mirror.example/kms-plugin-0.1.0-1.x86_64.rpm";
    let products: [(&str, Vec<&str>); 11] = [
        ("machineconfig-image.yaml", vec!["machineconfig", "--way", "image", "--package", package]),
        ("machineconfig-quadlet.yaml", vec!["machineconfig", "--way", "quadlet", "--image", &image]),
        ("machineconfig-fetch.yaml", vec!["machineconfig", "--way", "fetch", "--image", &image]),
        (
            "disruption-policy-image.yaml",
            vec!["machineconfig", "--way", "image", "--package", package, "--policy"],
        ),
        (
            "disruption-policy-quadlet.yaml",
            vec!["machineconfig", "--way", "quadlet", "--image", &image, "--policy"],
        ),
        (
            "disruption-policy-fetch.yaml",
            vec!["machineconfig", "--way", "fetch", "--image", &image, "--policy"],
        ),
        ("static-pod.yaml", vec!["static-pod", "--image", &image]),
        ("encryption-config.yaml", vec!["encryption-config"]),
        ("policy.hcl", vec!["policy"]),
        ("unit-dropin.conf", vec!["unit-dropin"]),
        ("unit-dropin-encrypted.conf", vec!["unit-dropin", "--encrypted"]),
    ];
    for (name, arguments) in products {
        let text = rendered(&golden("config.toml"), &arguments);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(golden(name), &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(golden(name)).unwrap_or_default(), "{name}");
    }
}

/// What `kms-plugin rewrite` needs in a cluster; no configuration of a node is needed for it.
#[test]
fn what_a_rewrite_needs_equals_the_golden_files() {
    let image = format!("registry.example/kms-plugin@sha256:{DIGEST}");
    let job = ["rewrite-job", "--image", &image];
    let proven = ["--etcd-pki", "/etc/kubernetes/pki/etcd"];
    for (name, arguments) in [
        ("rewrite-rbac.yaml", vec!["rbac", "--resource", "secrets,configmaps,routes.route.openshift.io"]),
        ("rewrite-job.yaml", [&job[..], &proven[..]].concat()),
        ("rewrite-cronjob.yaml", [&job[..], &["--schedule", "0 3 * * 0"]].concat()),
    ] {
        let output = command().arg("render").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(golden(name), &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(golden(name)).unwrap_or_default(), "{name}");
    }
}

/// A pod sees only what it mounts: the socket of a local proxy, and that of the SPIFFE Workload API.
#[test]
fn the_sockets_that_the_agent_connects_to_are_mounted() {
    let image = format!("registry.example/kms-plugin@sha256:{DIGEST}");
    for (example, directory) in [("local-proxy.toml", "/run/vault"), ("spiffe.toml", "/run/spire")] {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example);
        let pod = rendered(&config, &["static-pod", "--image", &image]);
        assert!(pod.contains(&format!("mountPath: {directory}")), "{example}: {pod}");
        assert!(pod.contains(&format!("path: {directory}")), "{example}: {pod}");
    }
}

#[test]
fn kubernetes_accepts_the_static_pod() {
    let Some(client) = tools::go_client() else { return };
    let output = Command::new(&client)
        .args(["-mode", "pod", "-file"])
        .arg(golden("static-pod.yaml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn the_api_server_loads_the_encryption_configuration() {
    let Some(client) = tools::go_client() else { return };
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let socket = agent.socket().display().to_string();
    for identity in ["first", "last", "none"] {
        let file = agent.directory.path().join("encryption.yaml");
        let text = rendered(
            &agent.directory.path().join("config.toml"),
            &[
                "encryption-config",
                "--identity",
                identity,
                "--server-socket",
                &socket,
                "--resources",
                "secrets",
            ],
        );
        std::fs::write(&file, text).unwrap();
        let output = Command::new(&client)
            .args(["-mode", "transformer", "-socket", &socket, "-file"])
            .arg(&file)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        // What the API server stores in etcd, and what the next one reads.
        if identity != "first" {
            let stored: serde_json::Value =
                serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{errors}"));
            assert!(stored["stored_bytes"].as_u64().unwrap() > 1024, "{stored}");
        }
        // With identity first nothing is wrapped, and the client says so.
        assert_eq!(output.status.success(), identity != "first", "{errors}");
        assert!(identity != "first" || errors.contains("not wrapped"), "{errors}");
    }
}

#[tokio::test]
async fn the_rendered_policy_is_sufficient_and_necessary() {
    let vault = Vault::start().await;
    vault.post("transit/keys/older", json!({})).await;
    let config = vault.vault_config()
        + "[[decrypt_only]]\nname = \"before\"\n[decrypt_only.vault.transit]\nkey = \"older\"\n"
        + QUICK;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    std::fs::write(&file, &config).unwrap();
    vault.put_policy("kms", &rendered(&file, &["policy"])).await;
    let agent = Agent::ready(&config).await;
    agent.kms().await.round_trip().await;
    let older = vault.post("transit/encrypt/older", json!({ "plaintext": "c2VjcmV0" })).await;
    let key_id = eventually("the older key", async || {
        let status = agent.status()?;
        let key_id = status["decrypt_only"][0]["key"]["key_id"].as_str().map(str::to_owned);
        key_id.ok_or_else(|| status.to_string())
    })
    .await;
    let ciphertext = older["data"]["ciphertext"].as_str().unwrap();
    let plain = agent.kms().await.decrypt_raw(ciphertext.as_bytes(), &key_id).await.unwrap();
    assert_eq!(plain, b"secret");
    // Without its lines about the first key, the policy is not sufficient.
    let text = rendered(&file, &["policy"]).replace(&format!("transit/encrypt/{KEY}"), "nowhere");
    vault.put_policy("kms", &text).await;
    let refused = agent.kms().await.encrypt(&SEED).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
}

#[test]
fn secrets_are_included_only_by_name() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(at("secret-id"), "s3cr3t-of-the-node").unwrap();
    std::fs::write(at("ca.pem"), "a certificate").unwrap();
    std::fs::write(
        at("config.toml"),
        format!(
            "[vault]\naddresses = [\"https://v:8200\"]\nca_file = {:?}\n[vault.transit]\nkey = \"k\"\n\
             [vault.auth]\nmethod = \"approle\"\nrole_id = \"r\"\nsecret_id_file = {:?}\n",
            at("ca.pem"),
            at("secret-id")
        ),
    )
    .unwrap();
    let config = directory.path().join("config.toml");
    let image = format!("i@sha256:{DIGEST}");
    let base = ["machineconfig", "--way", "quadlet", "--image", &image];
    let encoded = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    let plain = rendered(&config, &base);
    assert!(!plain.contains(&encoded("s3cr3t-of-the-node")));
    assert!(plain.contains(&encoded("a certificate")), "public files are included");
    let (code, text, warned) = render(&config, &[&base[..], &["--include-secret", "secret-id"]].concat());
    assert_eq!(code, 0, "{warned}");
    assert!(text.contains(&encoded("s3cr3t-of-the-node")) && warned.contains("in clear"), "{warned}");
    let (code, _, said) = render(&config, &[&base[..], &["--include-secret", "token"]].concat());
    assert!(code == 64 && said.contains("no secret file called token"), "{code} {said}");
    let (code, _, said) = render(&config, &["static-pod", "--image", &image]);
    assert!(code == 78 && said.contains("not below /etc/kms-plugin"), "{code} {said}");
}

#[test]
fn missing_and_wrong_arguments_are_refused() {
    for (arguments, part) in [
        (
            vec!["machineconfig", "--way", "fetch", "--image", "registry.example/kms-plugin:latest"],
            "by its digest",
        ),
        (vec!["machineconfig", "--way", "fetch"], "--image"),
        (vec!["machineconfig", "--way", "image"], "--package"),
        (vec!["encryption-config", "--provider-name", "a:b"], "colon"),
        (vec!["encryption-config", "--timeout", "3"], "is not a time"),
        (vec!["encryption-config", "--timeout", "3secs"], "is not a time"),
    ] {
        let (code, _, said) = render(&golden("config.toml"), &arguments);
        assert!(code == 64 && said.contains(part), "{arguments:?}: {code} {said}");
    }
}

/// The login is in one namespace, the key in another below it: one policy, to be written where the login is.
#[tokio::test]
async fn the_policy_covers_the_namespace_of_the_key() {
    // Vault Community has no namespaces.
    let vault = Vault::start_product(Product::OpenBao).await;
    vault.post("sys/namespaces/team", json!({})).await;
    vault.post_in("team", "sys/mounts/keys", json!({ "type": "transit" })).await;
    vault.post_in("team", &format!("keys/keys/{KEY}"), json!({})).await;
    let config = vault.vault_config().replace(
        "[vault.transit]",
        "namespace = \"team\"\nauth_namespace = \"\"\n[vault.transit]\nmount = \"keys\"",
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    std::fs::write(&file, &config).unwrap();
    let policy = rendered(&file, &["policy"]);
    assert!(policy.contains("in the root namespace\n"), "{policy}");
    vault.put_policy("kms", &policy).await;
    Agent::ready(&(config + QUICK)).await.kms().await.round_trip().await;
}

/// `--renew` allows renewals. An entry with a login of its own gets a policy of its own.
#[tokio::test]
async fn each_login_has_a_policy_of_its_own() {
    let vault = Vault::start().await;
    let file = golden("config.toml");
    let text = rendered(&file, &["policy"]);
    let policies: Vec<&str> = text.split("\n\n").collect();
    assert_eq!(policies.len(), 2, "{text}");
    assert!(!policies[0].contains("old-key") && !policies[1].contains("encrypt"), "{text}");
    assert!(policies.iter().all(|policy| policy.matches("lookup-self").count() == 1), "{text}");
    assert!(!text.contains("renew-self"));
    let text = rendered(&file, &["policy", "--renew"]);
    assert_eq!(text.matches("auth/token/renew-self").count(), 2, "{text}");
    // The server accepts both as one policy, too.
    vault.put_policy("both", &text).await;
}

#[test]
fn a_machineconfig_fits_the_configuration() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let token = directory.path().join("old-token");
    std::fs::write(&token, "s3cr3t-of-the-node").unwrap();
    let file = directory.path().join("config.toml");
    let config = std::fs::read_to_string(golden("config.toml"))
        .unwrap()
        .replace("\"before\"", "\"the old one\"")
        .replace("/etc/kms-plugin/old-token", &token.display().to_string());
    std::fs::write(&file, &config).unwrap();
    let image = format!("i@sha256:{DIGEST}");
    let base = ["machineconfig", "--way", "fetch", "--image", &image];
    // A secret has one name everywhere. A change of it restarts the service, since systemd passes it at the start.
    let text = rendered(&file, &[&base[..], &["--include-secret", "token-the-old-one"]].concat());
    assert!(text.contains("LoadCredential=token-the-old-one:/var/tmp/"), "{text}");
    // The policy is never in one file with the MachineConfig: the operator applies it to added files, too, and would
    // reload a service that is not there yet.
    assert!(!text.contains("nodeDisruptionPolicy") && text.contains("--policy"), "{text}");
    let text = rendered(&file, &[&base[..], &["--include-secret", "token-the-old-one", "--policy"]].concat());
    assert!(
        text.contains("\nkind: MachineConfiguration\n") && !text.contains("kind: MachineConfig\n"),
        "{text}"
    );
    let policy: serde_json::Value = yaml_serde::from_str(&text).unwrap();
    let files = policy["spec"]["nodeDisruptionPolicy"]["files"].as_array().unwrap();
    let actions = |path: &str| files.iter().find(|file| file["path"] == path).unwrap()["actions"].clone();
    let restart = |unit: &str| json!({ "type": "Restart", "restart": { "serviceName": unit } });
    assert_eq!(actions(&token.display().to_string()), json!([restart("kms-plugin.service")]));
    // The unit decides between a reload and a restart, also when the image changes at once.
    assert_eq!(
        actions("/etc/kms-plugin/config.toml"),
        json!([{ "type": "DaemonReload" }, restart("kms-plugin-apply.service")])
    );
    // The units have one fixed socket.
    for (socket, expected) in
        [("/var/run/kmsplugin/kms.sock", 0), ("/run/kmsplugin/kms.sock", 0), ("/run/other/kms.sock", 78)]
    {
        let (code, _, said) = render(&file, &[&base[..], &["--server-socket", socket]].concat());
        assert_eq!(code, expected, "{socket}: {said}");
    }
}
