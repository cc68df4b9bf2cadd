//! A rendered MachineConfig is checked by Ignition and applied to a fresh node.

use std::process::Command;

use base64::Engine as _;
use serde_json::Value;

use crate::node::{Node, QUICK, is_newer};
use crate::support::vault::Vault;

/// The MachineConfig's Ignition configuration, as rendered for this configuration.
fn ignition(config: &std::path::Path, arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_kms-plugin"))
        .args(["render", "machineconfig"])
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let document: Value = yaml_serde::from_str(text.split("\n---\n").next().unwrap()).unwrap();
    assert_eq!(document["kind"], "MachineConfig");
    document["spec"]["config"].clone()
}

/// Ignition's own check. An unknown key is only a warning there, so that any output counts as a failure.
fn validate(config: &Value) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.ign");
    std::fs::write(&file, config.to_string()).unwrap();
    let output = Command::new("ignition-validate")
        .arg(&file)
        .output()
        .expect("ignition-validate: tests/system/run installs it");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

/// Writes files, units and drop-ins as Ignition does, and enables what is to be enabled.
fn apply(node: &Node, config: &Value) {
    for file in config["storage"]["files"].as_array().unwrap() {
        let (path, source) = (file["path"].as_str().unwrap(), file["contents"]["source"].as_str().unwrap());
        let encoded = source.strip_prefix("data:;base64,").unwrap();
        let contents = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap();
        node.ok(&format!("mkdir -p $(dirname {path})"));
        std::fs::write(node.path(path), contents).unwrap();
        node.ok(&format!("chmod {:o} {path}", file["mode"].as_u64().unwrap()));
    }
    let units = config["systemd"]["units"].as_array().unwrap();
    for unit in units {
        let path = format!("/etc/systemd/system/{}", unit["name"].as_str().unwrap());
        if let Some(contents) = unit["contents"].as_str() {
            std::fs::write(node.path(&path), contents).unwrap();
        }
        for dropin in unit["dropins"].as_array().into_iter().flatten() {
            node.ok(&format!("mkdir -p {path}.d"));
            let name = dropin["name"].as_str().unwrap();
            std::fs::write(node.path(&format!("{path}.d/{name}")), dropin["contents"].as_str().unwrap())
                .unwrap();
        }
    }
    for unit in units.iter().filter(|unit| unit["enabled"] == true) {
        node.ok(&format!("systemctl enable {}", unit["name"].as_str().unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_configured_by_machineconfig_alone_serves() {
    let vault = Vault::start().await;
    let mut node = Node::boot();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    // The role-id in the configuration, the secret-id a file of root's that was put on the node before.
    let role = std::fs::read_to_string(vault.file("role-id")).unwrap();
    let table = Node::vault(&vault)
        .replace("role_id_file = \"/etc/kms-plugin/role-id\"", &format!("role_id = {:?}", role.trim()));
    std::fs::write(&file, table + QUICK).unwrap();
    let digest = "0123456789abcdef".repeat(4);
    let image = format!("registry.example/kms-plugin@sha256:{digest}");
    let config = ignition(&file, &["--way", "fetch", "--image", &image]);
    validate(&config);
    apply(&node, &config);
    node.ok("cp /dev/null /etc/kms-plugin/secret-id && chmod 600 /etc/kms-plugin/secret-id");
    std::fs::write(
        node.path("/etc/kms-plugin/secret-id"),
        std::fs::read_to_string(vault.file("secret-id")).unwrap(),
    )
    .unwrap();
    // No podman here: the binary lies where the fetching unit would have put it, out of the same image.
    let binary = format!("/var/lib/kms-plugin-bin/{}/kms-plugin", &digest[..16]);
    node.ok(&format!(
        "mkdir -p $(dirname {binary}) && cp /mnt/image/root/kms-plugin /mnt/image/root/kms-plugin-tools $(dirname {binary})/"
    ));
    let verified = node.run("systemd-analyze verify --man=no kms-plugin.service kms-plugin.socket");
    assert!(verified.text.lines().all(|line| line.contains("podman")), "{}", verified.text);
    node.reboot();
    node.wait_for_phase("ready").await;
    let first = node.kms().await.round_trip().await;
    assert_eq!(node.ok("systemctl is-active kms-plugin.service kms-plugin.socket"), "active\nactive");
    assert_eq!(
        node.run("systemctl show --value -p ConditionResult kms-plugin-fetch").text,
        "no",
        "nothing to fetch"
    );
    let uid: u32 = node.ok(&format!("stat -c %u /proc/{}", node.pid())).parse().unwrap();
    assert!(uid >= 61184, "{uid} is not a user of systemd's own making");
    // What the node disruption policy does for a changed file.
    node.ok("systemctl reload kms-plugin");
    assert_eq!(node.kms().await.decrypt(&first).await.unwrap(), crate::support::kms::SEED);
}

/// podman's own generator reads the Quadlet file without a word of warning. (4.4 and newer have one, and so the
/// newer suite.)
#[test]
fn the_quadlet_file_becomes_a_unit() {
    if !is_newer() {
        eprintln!("NOT TESTED: this suite's podman has no Quadlet");
        return;
    }
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/config.toml");
    let image = format!("registry.example/kms-plugin@sha256:{}", "0123456789abcdef".repeat(4));
    let node = Node::boot();
    apply(&node, &ignition(&golden, &["--way", "quadlet", "--image", &image]));
    let unit = node
        .ok("/usr/libexec/podman/quadlet -dryrun 2>/tmp/errors; ! grep -v 'Loading source unit file' /tmp/errors >&2");
    for part in ["---kms-plugin.service---", "--sdnotify=container", "--read-only", "--cap-drop all", &image]
    {
        assert!(unit.contains(part), "no {part} in {unit}");
    }
}

#[test]
fn every_machineconfig_is_valid_to_ignition() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/config.toml");
    let image = format!("registry.example/kms-plugin@sha256:{}", "0123456789abcdef".repeat(4));
    let ways: [&[&str]; 3] = [
        &["--way", "image", "--package", "https://mirror.example/kms-plugin.rpm"],
        &["--way", "quadlet", "--image", &image],
        &["--way", "fetch", "--image", &image],
    ];
    for way in ways {
        validate(&ignition(&golden, way));
    }
}
