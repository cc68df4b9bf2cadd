//! A rendered MachineConfig is checked by Ignition and applied to a fresh node.

use std::process::Command;

use base64::Engine as _;
use serde_json::Value;

use crate::node::{Node, QUICK, is_newer};
use crate::support::vault::Vault;

/// What `render machineconfig` writes first: the MachineConfig, or with `--policy` the policy.
fn rendered(config: &std::path::Path, arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_kms-plugin"))
        .args(["render", "machineconfig"])
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    yaml_serde::from_str(text.split("\n---\n").next().unwrap()).unwrap()
}

/// The MachineConfig's Ignition configuration, as rendered for this configuration.
fn ignition(config: &std::path::Path, arguments: &[&str]) -> Value {
    let document = rendered(config, arguments);
    assert_eq!(document["kind"], "MachineConfig");
    document["spec"]["config"].clone()
}

/// What the Machine Config Operator runs after a change: the actions of the changed files, then those of the changed
/// units, as systemctl's arguments (pkg/daemon/update.go at 7ff337a4ffac). A file or unit without a policy is a reboot.
fn actions(old: &Value, new: &Value, policy: &Value) -> Vec<String> {
    let policies = &policy["spec"]["nodeDisruptionPolicy"];
    let mut lines = Vec::new();
    let parts = [("/storage/files", "path", "files"), ("/systemd/units", "name", "units")];
    for (place, name, kind) in parts {
        let (old, new) = (old.pointer(place).unwrap(), new.pointer(place).unwrap());
        for entry in new.as_array().unwrap().iter().filter(|entry| !old.as_array().unwrap().contains(entry)) {
            let policies = policies[kind].as_array().unwrap();
            let found = policies.iter().find(|policy| policy[name] == entry[name]);
            for action in
                found.unwrap_or_else(|| panic!("a reboot: {}", entry[name]))["actions"].as_array().unwrap()
            {
                let unit = |kind: &str| action[kind]["serviceName"].as_str().unwrap().to_owned();
                lines.push(match action["type"].as_str().unwrap() {
                    "DaemonReload" => "daemon-reload".to_owned(),
                    "Restart" => format!("restart {}", unit("restart")),
                    "Reload" => format!("reload {}", unit("reload")),
                    other => panic!("{other}"),
                });
            }
        }
    }
    lines
}

/// Runs them as the operator does: it stops at the first failure, and rolls back. Returns what failed.
fn perform(node: &Node, lines: &[String]) -> Result<(), String> {
    for line in lines {
        let said = node.run(&format!("systemctl {line}"));
        if said.code != 0 {
            return Err(format!("{line}: {}", said.text));
        }
    }
    Ok(())
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

    // What the policy does for a change of the configuration alone: a reload.
    let policy = rendered(&file, &["--way", "fetch", "--image", &image, "--policy"]);
    let table = std::fs::read_to_string(&file).unwrap();
    let change = |text: &str, image: &str| {
        std::fs::write(&file, text).unwrap();
        ignition(&file, &["--way", "fetch", "--image", image])
    };
    let pid = node.pid();
    let second = change(&table.replace("\"200ms\"", "\"210ms\""), &image);
    apply(&node, &second);
    perform(&node, &actions(&config, &second, &policy)).unwrap();
    assert_eq!(node.pid(), pid, "a reload keeps the process");

    // A configuration that does not load: the first action fails, so the operator stops at this node, and the old
    // agent serves.
    let mut bad = second.clone();
    let text = base64::engine::general_purpose::STANDARD.encode("[no_such_table]\n");
    bad["storage"]["files"][0]["contents"]["source"] = format!("data:;base64,{text}").into();
    apply(&node, &bad);
    let failed = perform(&node, &actions(&second, &bad, &policy)).unwrap_err();
    assert!(failed.contains("kms-plugin-apply.service"), "{failed}");
    assert_eq!((node.pid(), node.status().unwrap()["phase"].as_str()), (pid.clone(), Some("ready")));

    // A new image and a new configuration at once: the new executable gets the new configuration.
    let newer = format!("registry.example/kms-plugin@sha256:{}", "fedcba9876543210".repeat(4));
    let directory = "/var/lib/kms-plugin-bin/fedcba9876543210";
    node.ok(&format!("mkdir -p {directory} && cp $(dirname {binary})/* {directory}/"));
    let third = change(&table.replace("\"200ms\"", "\"220ms\""), &newer);
    let policy = rendered(&file, &["--way", "fetch", "--image", &newer, "--policy"]);
    apply(&node, &third);
    let lines = actions(&second, &third, &policy);
    let apply = lines.iter().position(|line| line == "restart kms-plugin-apply.service").unwrap();
    assert!(lines[..apply].iter().all(|line| line == "daemon-reload"), "{lines:?}");
    perform(&node, &lines[..=apply]).unwrap();
    let running = |node: &Node| node.ok(&format!("readlink /proc/{}/exe", node.pid()));
    assert_eq!(running(&node), format!("{directory}/kms-plugin"), "already after the actions of the file");
    perform(&node, &lines[apply + 1..]).unwrap();
    assert_eq!(running(&node), format!("{directory}/kms-plugin"));
    node.wait_for_phase("ready").await;
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
