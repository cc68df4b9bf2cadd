//! The packages of the FIPS build take the place of the others, and give it back: the same configuration, and each reads
//! what the other wrote. `tests/system/fips` builds them, and runs these tests.

use crate::node::{Node, QUICK};
use crate::support::agent::LOCAL_KEK;
use crate::support::kms::SEED;
use crate::support::vault::Vault;

const MODULE: &str = "AWS-LC FIPS 3.";

/// The commands of docs/install.md, with the files of the test in place of those of a release.
fn documented(line: &str) -> &str {
    let (command, _) = line.split_once("/mnt/").unwrap_or((line, ""));
    assert!(include_str!("../../docs/install.md").contains(&format!("\n# {command}")), "{command}");
    line
}

/// Which build serves, as each output tells it.
async fn is_fips(node: &Node) -> bool {
    node.wait_for_offline_ready().await;
    let status = node.status().unwrap();
    let module = status["fips"].as_str().unwrap_or_default().to_owned();
    let fips = module.starts_with(MODULE);
    assert!(fips || module.is_empty(), "{status}");
    assert_eq!(node.ok("kms-plugin --version").contains(&format!("(FIPS 140-3, {MODULE}")), fips);
    assert_eq!(node.ok("kms-plugin status").contains("fips 140-3"), fips);
    let started = node.ok("journalctl --no-pager -o cat -u kms-plugin | grep ' serves' | tail -1");
    assert_eq!(started.contains(MODULE), fips, "{started}");
    fips
}

/// A node with the usual package. Below it has its seed of direct mode, too.
async fn node(vault: &Vault, install: impl Fn(&Node)) -> Node {
    let node = Node::boot();
    install(&node);
    node.configure(vault, QUICK);
    node.ok("systemctl enable --now kms-plugin");
    node.wait_for_phase("ready").await;
    node
}

/// Replaces one build by the other, and back. `change` installs the FIPS build, or the other one.
async fn they_read_each_other(node: &Node, vault: &Vault, change: impl Fn(&Node, bool)) {
    let mut seeds = vec![node.kms().await.round_trip().await];
    node.configure(vault, &(QUICK.to_owned() + LOCAL_KEK));
    node.ok("systemctl restart kms-plugin");
    assert!(!is_fips(node).await);
    seeds.push(node.written().await);
    for fips in [true, false] {
        change(node, fips);
        assert_eq!(is_fips(node).await, fips);
        for seed in &seeds {
            assert_eq!(node.read(seed).await.unwrap(), SEED, "FIPS: {fips}");
        }
        seeds.push(node.written().await);
        assert_eq!(seeds.iter().filter(|seed| seed.key_id == seeds[0].key_id).count(), seeds.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/system/fips"]
async fn the_rpm_of_the_fips_build_takes_the_place_of_the_other() {
    let vault = Vault::start().await;
    let node = node(&vault, |node| node.install("1")).await;
    let refused = node.run("rpm -i /mnt/rpm/fips/kms-plugin-fips-*.x86_64.rpm 2>&1");
    assert!(refused.code != 0 && refused.text.contains("conflicts with"), "{refused:?}");
    they_read_each_other(&node, &vault, |node, fips| {
        if fips {
            node.ok(documented("rpm -e kms-plugin"));
            node.ok(documented("rpm -i /mnt/rpm/fips/kms-plugin-fips-*.x86_64.rpm"));
        } else {
            node.ok("rpm -e kms-plugin-fips");
            node.ok("rpm -i /mnt/rpm/1/kms-plugin-*.x86_64.rpm");
        }
        node.ok(documented("mv /etc/kms-plugin/config.toml.rpmsave /etc/kms-plugin/config.toml"));
        node.ok(documented("systemctl enable --now kms-plugin"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/system/fips"]
async fn the_debian_package_of_the_fips_build_takes_the_place_of_the_other() {
    let vault = Vault::start().await;
    let install = |node: &Node, package: &str| {
        node.ok(&format!("DEBIAN_FRONTEND=noninteractive dpkg -i /mnt/deb/{package}_*_amd64.deb"));
    };
    let node = node(&vault, |node| install(node, "kms-plugin")).await;
    they_read_each_other(&node, &vault, |node, fips| {
        install(node, if fips { "kms-plugin-fips" } else { "kms-plugin" });
        node.ok(documented("systemctl enable --now kms-plugin"));
    })
    .await;
    install(&node, "kms-plugin-fips");
    node.ok("dpkg --purge kms-plugin-fips");
    assert!(node.run("test -e /etc/kms-plugin/config.toml").code != 0);
    node.ok("test -s /etc/kms-plugin/secret-id");
}
