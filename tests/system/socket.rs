//! The socket that PID 1 owns: made again when it is deleted, and not when it is stopped.

use std::time::Instant;

use crate::node::{Node, QUICK};
use crate::support::eventually;
use crate::support::vault::Vault;

async fn serves_again(node: &Node, what: &str, old: &str) {
    let started = Instant::now();
    eventually("the socket", async || {
        let inode = node.run("stat -c %i /run/kmsplugin/kms.sock").text;
        let connected = std::os::unix::net::UnixStream::connect(node.socket());
        if inode == old {
            return Err("the old one".into());
        }
        connected.map(drop).map_err(|error| format!("{error}\n{}", node.journal()))
    })
    .await;
    eprintln!("MEASURED {what}: connections are taken again after {:.2?}", started.elapsed());
    node.wait_for_phase("ready").await;
    node.kms().await.round_trip().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_socket_or_directory_is_made_again() {
    let vault = Vault::start().await;
    let node = Node::serving(&vault, QUICK).await;
    let inode = || node.ok("stat -c %i /run/kmsplugin/kms.sock");
    let old = inode();
    node.ok("rm /run/kmsplugin/kms.sock");
    serves_again(&node, "socket deleted", &old).await;
    let old = inode();
    node.ok("rm -r /run/kmsplugin");
    serves_again(&node, "directory deleted", &old).await;
    let old = inode();
    node.ok("mv /run/kmsplugin /run/aside && mkdir /run/kmsplugin");
    serves_again(&node, "directory replaced", &old).await;
    // A pod that mounts the file itself makes a directory where it is missing.
    let old = inode();
    node.ok("rm /run/kmsplugin/kms.sock; mkdir /run/kmsplugin/kms.sock");
    serves_again(&node, "a directory in the socket's place", &old).await;
    // Once more: the watch itself must have been renewed.
    let old = inode();
    node.ok("rm /run/kmsplugin/kms.sock");
    serves_again(&node, "socket deleted again", &old).await;
    assert!(node.run("journalctl -u kms-plugin-rebind").text.contains("is gone; making it again"));
    assert_eq!(node.ok("systemctl is-active kms-plugin-rebind.path"), "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_socket_stays_stopped_with_all_its_units() {
    let vault = Vault::start().await;
    let node = Node::serving(&vault, QUICK).await;
    let directory = node.ok("stat -c %i /run/kmsplugin");
    node.ok("systemctl stop kms-plugin.socket");
    let units = "systemctl is-active kms-plugin.service kms-plugin.socket kms-plugin-rebind.path";
    assert_eq!(node.run(units).text, "inactive\ninactive\ninactive");
    assert_eq!(node.ok("stat -c %i /run/kmsplugin"), directory, "what pods have mounted stays");
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(node.run(units).text, "inactive\ninactive\ninactive");
    // The service alone brings its socket with it.
    node.ok("systemctl start kms-plugin");
    node.wait_for_phase("ready").await;
    assert_eq!(node.run(units).text, "active\nactive\nactive");
    assert_eq!(node.ok("stat -c %i /run/kmsplugin"), directory);
}

/// The kubelet may make the directory before anything of ours runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_somebody_else_made_is_used() {
    let vault = Vault::start().await;
    let node = Node::boot();
    node.ok("mkdir -p -m 0755 /run/kmsplugin");
    let directory = node.ok("stat -c %i /run/kmsplugin");
    node.install("1");
    node.configure(&vault, QUICK);
    node.ok("systemctl enable --now kms-plugin");
    node.wait_for_phase("ready").await;
    node.kms().await.round_trip().await;
    assert_eq!(node.ok("stat -c %i /run/kmsplugin"), directory);
}
