//! The image as a kubelet runs it: user 0, no capabilities, a read-only root, seccomp; with each command line.

use crate::node::{Node, QUICK};
use crate::support::eventually;
use crate::support::kms::Kms;
use crate::support::vault::{KEY, Vault};

/// The container runtime's restrictions as settings of systemd. The root is the unpacked image.
const CONFINED: &str = "-p RootDirectory=/mnt/image/root -p MountAPIVFS=yes -p CapabilityBoundingSet= \
    -p NoNewPrivileges=yes -p ReadOnlyPaths=/ -p PrivateDevices=yes -p RestrictNamespaces=yes \
    -p SystemCallFilter=@system-service -p SystemCallErrorNumber=EPERM";

async fn serves(node: &Node, directory: &str, unit: &str) {
    let socket = node.path(&format!("{directory}/kms.sock"));
    let mut kms = eventually("the container's socket", async || {
        let status = node
            .run(&format!("systemctl is-active {unit}; journalctl -u {unit} -n 20 -o cat --no-pager"))
            .text;
        std::os::unix::net::UnixStream::connect(&socket)
            .map(drop)
            .map_err(|error| format!("{error}: {status}"))?;
        let mut kms = Kms::connect(&socket).await;
        match kms.status().await {
            Ok(answer) if answer.healthz == "ok" => Ok(kms),
            other => Err(format!("{other:?}: {status}")),
        }
    })
    .await;
    kms.round_trip().await;
    let pid = node.show(unit, "MainPID");
    let status = node.ok(&format!("cat /proc/{pid}/status"));
    assert!(status.contains("CapEff:\t0000000000000000") && status.contains("Uid:\t0\t0"), "{status}");
    assert!(node.run(&format!("touch /proc/{pid}/root/written")).code != 0, "the root can be written to");
}

fn text(vault: &Vault, name: &str) -> String {
    std::fs::read_to_string(vault.file(name)).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_static_pods_of_the_guide_and_of_ours_serve() {
    let vault = Vault::start().await;
    let node = Node::boot();
    node.ok("mkdir -p /run/kmsplugin /run/kms-plugin /etc/kms-plugin");
    // The guide's arguments, with the secrets among them.
    let guide = format!(
        "-vault-address={} -auth-method=approle -approle-role-id={} -approle-secret-id={} -transit-mount=transit \
         -transit-key={KEY} -socket=unix:///var/run/kmsplugin/kms.sock",
        vault.address,
        text(&vault, "role-id"),
        text(&vault, "secret-id")
    );
    node.ok(&format!("systemd-run --unit=guide {CONFINED} -p BindPaths=/run/kmsplugin:/var/run/kmsplugin /vault-kubernetes-kms {guide}"));
    serves(&node, "/run/kmsplugin", "guide").await;
    node.ok("systemctl stop guide");
    // Ours: configuration and secrets from mounted files.
    for name in ["role-id", "secret-id"] {
        std::fs::write(node.path(&format!("/etc/kms-plugin/{name}")), text(&vault, name)).unwrap();
    }
    node.ok("chmod 600 /etc/kms-plugin/*");
    std::fs::write(node.path("/etc/kms-plugin/config.toml"), Node::vault(&vault) + QUICK).unwrap();
    node.ok(&format!("systemd-run --unit=ours {CONFINED} -p BindPaths=/run/kmsplugin -p BindPaths=/run/kms-plugin -p BindReadOnlyPaths=/etc/kms-plugin /kms-plugin serve --config=/etc/kms-plugin/config.toml"));
    serves(&node, "/run/kmsplugin", "ours").await;
    // The pod's probes, as the kubelet runs them in the container.
    for what in ["--live", "--ready"] {
        let probe = format!("/kms-plugin probe {what} --timeout=90s --runtime-dir=/run/kms-plugin");
        node.ok(&format!(
            "nsenter --target $(systemctl show -p MainPID --value ours) --mount --root {probe}"
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_sidecar_serves_with_one_volume_to_write_to() {
    let vault = Vault::start().await;
    let node = Node::boot();
    // As a kubelet makes an emptyDir.
    node.ok("mkdir -p /run/secret && mkdir -m 0777 /run/pod");
    std::fs::write(node.path("/run/secret/secret-id"), text(&vault, "secret-id")).unwrap();
    let sidecar = format!(
        "-listen-address=unix:///var/run/kmsplugin/kms.sock -vault-address={} -vault-key-path=transit/keys/{KEY} \
         -approle-role-id={} -approle-secret-id-path=/etc/kms-plugin/secret-id -metrics-port=0",
        vault.address,
        text(&vault, "role-id"),
    );
    // Only the socket's directory is writable: the runtime directory is made beside the socket.
    node.ok(&format!("systemd-run --unit=sidecar {CONFINED} -p TemporaryFileSystem=/run:ro -p BindPaths=/run/pod:/var/run/kmsplugin -p BindReadOnlyPaths=/run/secret:/etc/kms-plugin /kms-plugin {sidecar}"));
    serves(&node, "/run/pod", "sidecar").await;
    node.ok("test -S /run/pod/.kms.sock.run/admin.sock");
    let port = node.run("journalctl -u sidecar -o cat --no-pager").text;
    assert!(!port.contains("health on http"), "{port}");
}
