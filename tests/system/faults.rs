//! Faults that need a node of their own: a name that moves to another address.

use std::time::Duration;

use crate::node::{Node, QUICK};
use crate::support::load::Load;
use crate::support::proxy::{Mode, Proxy};
use crate::support::vault::Vault;

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_moves_to_another_address_is_followed() {
    let vault = Vault::start().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let old = Proxy::at(&format!("127.0.0.2:{port}"), &vault.address).await;
    let node = Node::boot();
    node.install("1");
    node.ok("echo '127.0.0.2 vault.test' >> /etc/hosts");
    let config = Node::vault(&vault).replace(&vault.address, &format!("http://vault.test:{port}"));
    node.configure(&vault, "");
    node.write(
        "/etc/kms-plugin/config.toml",
        &(config.replace("[vault]", "[vault]\ninsecure_plain_http = true") + QUICK),
    );
    node.ok("systemctl enable --now kms-plugin");
    node.wait_for_phase("ready").await;
    let first = node.kms().await.round_trip().await;
    // The name moves, and later the old address stops: no call fails.
    let _new = Proxy::at(&format!("127.0.0.3:{port}"), &vault.address).await;
    let load = Load::start(&node.socket(), &first);
    tokio::time::sleep(Duration::from_millis(500)).await;
    node.ok("sed 's/^127.0.0.2 /127.0.0.3 /' /etc/hosts > /tmp/hosts && cat /tmp/hosts > /etc/hosts");
    tokio::time::sleep(Duration::from_millis(200)).await;
    old.set(Mode::Refuse);
    tokio::time::sleep(Duration::from_secs(2)).await;
    load.stop().await.none_failed("a name that moves");
    assert_eq!(node.status().unwrap()["phase"], "ready");
}
