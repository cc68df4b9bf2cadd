//! The packages of the FIPS build take the place of the others, and give it back: the same configuration, and each reads
//! what the other wrote. `tests/system/fips` builds them, and runs these tests.

use crate::node::{Node, QUICK};
use crate::support::agent::LOCAL_KEK;
use crate::support::kms::SEED;
use crate::support::vault::Vault;

const MODULE: &str = "AWS-LC FIPS 3.";

/// A command of the section of docs/install.md, which names a file of a release where the test has another one.
fn documented(line: &str) -> &str {
    let text = include_str!("../../docs/install.md");
    let (_, text) = text.split_once("### The FIPS build").unwrap();
    let (text, _) = text.split_once("\n### ").unwrap();
    let line_there =
        line.replace("/mnt/rpm/fips/kms-plugin-fips-*.x86_64.rpm", "kms-plugin-fips-0.1.0-1*.rpm");
    assert!(text.contains(&format!("\n# {line_there}")), "{line_there}");
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
        assert!(seeds.iter().all(|seed| seed.key_id == seeds[0].key_id), "{seeds:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/system/fips"]
async fn the_rpm_of_the_fips_build_takes_the_place_of_the_other() {
    let vault = Vault::start().await;
    let node = Node::serving(&vault, QUICK).await;
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
    let node = Node::serving_by(|node| node.install_deb("kms-plugin", "1"), &vault, QUICK).await;
    they_read_each_other(&node, &vault, |node, fips| {
        node.install_deb(if fips { "kms-plugin-fips" } else { "kms-plugin" }, "1");
        node.ok(documented("systemctl enable --now kms-plugin"));
    })
    .await;
    // dpkg still knows the package that was replaced, since it had a configuration. Its purge must not touch what is in use.
    node.install_deb("kms-plugin-fips", "1");
    node.ok("systemctl enable --now kms-plugin && dpkg --purge kms-plugin");
    assert!(is_fips(&node).await);
    node.kms().await.round_trip().await;
    for kept in [
        "/run/kms-plugin/identity.json",
        "/var/lib/kms-plugin/wrapped-keys.json",
        "/etc/kms-plugin/config.toml",
    ] {
        node.ok(&format!("test -s {kept}"));
    }
    node.ok("test -S /run/kmsplugin/kms.sock");
    assert_eq!(node.ok("systemctl is-enabled kms-plugin.service kms-plugin.socket"), "enabled\nenabled");
    node.ok("dpkg --purge kms-plugin-fips");
    assert!(node.run("test -e /var/lib/kms-plugin").code != 0);
    assert!(node.run("test -e /etc/kms-plugin/config.toml").code != 0);
    node.ok("test -s /etc/kms-plugin/secret-id");
}
