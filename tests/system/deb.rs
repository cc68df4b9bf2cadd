//! The Debian package: installed, upgraded under load, removed, purged.

use crate::node::{Node, QUICK};
use crate::support::agent::LOCAL_KEK;
use crate::support::kms::SEED;
use crate::support::load::{Calls, Load};
use crate::support::vault::Vault;

/// What an upgrade may do to calls: none is refused.
fn few_failed(calls: &Calls) {
    assert!(calls.0.len() > 100);
    // The tonic client of this load does not repeat calls that the end of a connection left unprocessed.
    assert!(calls.failed().len() <= 8, "{:?}", calls.failed());
    assert!(!calls.failed().iter().any(|call| call.text.contains("refused")), "{:?}", calls.failed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_debian_package_is_installed_upgraded_removed_and_purged() {
    let vault = Vault::start().await;
    let node = Node::boot();
    node.install_deb("kms-plugin", "1");
    for unit in ["kms-plugin.service", "kms-plugin.socket"] {
        assert_eq!(node.run(&format!("systemctl is-enabled {unit}")).text, "disabled", "{unit}");
    }
    assert_eq!(
        node.run("systemctl is-active kms-plugin.socket kms-plugin.service").text,
        "inactive\ninactive"
    );
    assert_eq!(
        node.ok("stat -c '%U:%G %a' /etc/kms-plugin /etc/kms-plugin/config.d /etc/kms-plugin/config.toml"),
        "root:kms-plugin 750\nroot:kms-plugin 750\nroot:kms-plugin 640"
    );
    // No file of the package was changed by its scripts, but the modes of the configuration.
    assert_eq!(node.run("dpkg --verify kms-plugin | grep -v /usr/share/").text, "");
    let files = node.ok("dpkg -L kms-plugin");
    for file in [
        "/usr/bin/kms-plugin",
        "/usr/libexec/kms-plugin/kms-plugin-tools",
        "/usr/share/man/man5/kms-plugin.toml.5.gz",
        "/usr/share/bash-completion/completions/kms-plugin",
        "/usr/share/kms-plugin/monitoring/prometheusrule.yaml",
        "/usr/share/doc/kms-plugin/copyright",
        "/usr/share/doc/kms-plugin/LICENSE.dependencies.gz",
    ] {
        assert!(files.lines().any(|line| line == file), "{file} in {files}");
    }

    node.configure(&vault, QUICK);
    node.write("/etc/kms-plugin/config.d/50-mine.toml", "[log]\nlevel = \"debug\"\n");
    node.ok("systemctl enable --now kms-plugin");
    node.wait_for_phase("ready").await;
    assert_eq!(node.ok(&format!("ps -o user= -p {}", node.pid())), "kms-plugin");
    node.ok("systemd-analyze verify kms-plugin.service kms-plugin.socket kms-plugin-rebind.path --man=no");
    let first = node.kms().await.round_trip().await;

    let (old, socket) = (node.pid(), node.ok("stat -c %i /run/kmsplugin/kms.sock"));
    let load = Load::start(&node.socket(), &first);
    node.install_deb("kms-plugin", "2");
    node.wait_for_new_process(&old).await;
    node.wait_for_phase("ready").await;
    few_failed(&load.stop().await);
    assert_eq!(node.ok("stat -c %i /run/kmsplugin/kms.sock"), socket, "the socket was not touched");
    assert_eq!(node.ok("systemctl is-enabled kms-plugin.service kms-plugin.socket"), "enabled\nenabled");
    assert_eq!(node.kms().await.decrypt(&first).await.unwrap(), SEED);
    node.ok("grep -q approle /etc/kms-plugin/config.toml");
    assert_eq!(node.ok("stat -c '%U:%G %a' /etc/kms-plugin/config.toml"), "root:kms-plugin 640");

    // dpkg removes it and keeps the configuration.
    node.ok("dpkg --remove kms-plugin");
    assert_eq!(
        node.run("systemctl is-active kms-plugin.service kms-plugin.socket kms-plugin-rebind.path").text,
        "inactive\ninactive\ninactive"
    );
    assert!(node.run("systemctl cat kms-plugin.service").code != 0);
    node.ok("grep -q approle /etc/kms-plugin/config.toml");

    // Installed again, it runs as before.
    node.install_deb("kms-plugin", "2");
    assert_eq!(node.ok("systemctl is-enabled kms-plugin.service"), "enabled");
    node.ok("systemctl start kms-plugin");
    node.wait_for_phase("ready").await;
    assert_eq!(node.kms().await.decrypt(&first).await.unwrap(), SEED);

    node.ok("dpkg --purge kms-plugin");
    for gone in
        ["/etc/kms-plugin/config.toml", "/var/lib/kms-plugin", "/run/kms-plugin", "/usr/share/kms-plugin"]
    {
        assert!(node.run(&format!("test -e {gone}")).code != 0, "{gone} is gone");
    }
    assert!(node.run("test -e /run/kmsplugin/kms.sock").code != 0, "nobody makes the socket again");
    for kept in ["/etc/kms-plugin/secret-id", "/etc/kms-plugin/config.d/50-mine.toml"] {
        node.ok(&format!("test -s {kept}"));
    }
    assert_eq!(node.run("find /etc/systemd /var/lib/systemd -name 'kms-plugin*'").text, "");
}

/// `tests/system/upgrade` makes revision 1 the package of the last release. Elsewhere it is this commit's.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_from_the_last_release_and_back_keeps_the_local_keks() {
    let mut vault = Vault::persistent().await;
    let install = |node: &Node| node.install_deb("kms-plugin", "1");
    let node = Node::serving_by(install, &vault, &(QUICK.to_owned() + LOCAL_KEK)).await;
    node.wait_for_offline_ready().await;
    let mut seeds = vec![node.written().await];
    for revision in ["2", "1"] {
        let (old, load) = (node.pid(), Load::start(&node.socket(), &seeds[0]));
        node.install_deb("kms-plugin", revision);
        node.wait_for_new_process(&old).await;
        node.wait_for_offline_ready().await;
        few_failed(&load.stop().await);
        seeds.push(node.written().await);
    }
    // Now nobody can unwrap a local KEK: each version must get them from the other one, through systemd.
    vault.kill();
    node.wait_for_phase("degraded").await;
    for revision in ["2", "1"] {
        let old = node.pid();
        node.install_deb("kms-plugin", revision);
        node.wait_for_new_process(&old).await;
        node.wait_for_phase("degraded").await;
        for seed in &seeds {
            assert_eq!(node.read(seed).await.unwrap(), SEED, "revision {revision}");
        }
        seeds.push(node.written().await);
    }
}
