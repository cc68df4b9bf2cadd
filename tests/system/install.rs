//! The package: installed, upgraded, removed; and how its units are rated.

use crate::node::{Node, QUICK, is_newer};
use crate::support::load::Load;
use crate::support::vault::Vault;

#[tokio::test(flavor = "multi_thread")]
async fn the_package_installs_disabled_and_shows_its_state() {
    let vault = Vault::start().await;
    let node = Node::boot();
    node.install(if is_newer() { "254" } else { "1" });
    for unit in ["kms-plugin.service", "kms-plugin.socket"] {
        assert_eq!(node.run(&format!("systemctl is-enabled {unit}")).text, "disabled", "{unit}");
    }
    assert_eq!(node.run("systemctl is-active kms-plugin.socket").text, "inactive");
    assert_eq!(
        node.ok("stat -c '%U:%G %a' /etc/kms-plugin /etc/kms-plugin/config.toml"),
        "root:kms-plugin 750\nroot:kms-plugin 640"
    );
    node.configure(&vault, QUICK);
    node.ok("systemctl enable --now kms-plugin");
    node.wait_for_phase("ready").await;
    assert_eq!(node.ok("systemctl is-enabled kms-plugin.socket"), "enabled", "Also= enables the socket");
    let status = node.ok("systemctl status kms-plugin");
    assert!(status.contains("active (running)") && status.contains("Status: \"ready"), "{status}");
    node.kms().await.round_trip().await;
    assert_eq!(
        node.ok("stat -c '%U:%G %a' /run/kmsplugin/kms.sock /run/kmsplugin"),
        "root:root 600\nroot:root 755"
    );
    node.ok("systemd-analyze verify kms-plugin.service kms-plugin.socket kms-plugin-rebind.path kms-plugin-rebind.service --man=no");
    // The loaded unit, rated by the command that an auditor uses.
    let score = node.ok("systemd-analyze security --no-pager kms-plugin.service | tail -1");
    let level: f64 = score.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
    assert!(level <= 1.5, "{score}");
    let process = node.ok(&format!("cat /proc/{}/status", node.pid()));
    let field =
        |name: &str| process.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs:").as_str(), field("Seccomp:").as_str()), ("1", "2"));
    assert_eq!(node.ok(&format!("ps -o user= -p {}", node.pid())), "kms-plugin");
    // The newer generation's drop-in is in force where its package was installed.
    if is_newer() {
        assert_eq!(node.show("kms-plugin", "RestartSteps"), "8");
    }
    let manual = node.ok("rpm -ql kms-plugin | grep -c -e '/man[58]/' -e completions");
    assert!(manual.parse::<u32>().unwrap() >= 10, "{manual}");
    let monitoring = node.ok("cd /usr/share/kms-plugin/monitoring && echo *");
    assert_eq!(monitoring, "alerts.yaml dashboard.json prometheusrule.yaml scrape.yaml");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_refuses_no_connection_and_a_removal_keeps_changed_files() {
    let vault = Vault::start().await;
    let node = Node::serving(&vault, QUICK).await;
    node.write("/etc/kms-plugin/config.d/50-mine.toml", "[log]\nlevel = \"debug\"\n");
    let first = node.kms().await.round_trip().await;
    let (old, socket) = (node.pid(), node.ok("stat -c %i /run/kmsplugin/kms.sock"));
    let load = Load::start(&node.socket(), &first);
    node.ok("rpm -U /mnt/rpm/2/kms-plugin-*.x86_64.rpm");
    node.wait_for_new_process(&old).await;
    node.wait_for_phase("ready").await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let calls = load.stop().await;
    // The tonic client of this load does not repeat calls that the end of a connection left unprocessed.
    assert!(calls.failed().len() <= 8, "{:?}", calls.failed());
    assert!(calls.0.len() > 100);
    let refused = calls.failed().iter().filter(|call| call.text.contains("refused")).count();
    assert_eq!(refused, 0, "{:?}", calls.failed());
    assert_eq!(node.ok("stat -c %i /run/kmsplugin/kms.sock"), socket, "the socket was not touched");
    assert_eq!(node.kms().await.decrypt(&first).await.unwrap(), crate::support::kms::SEED);

    node.ok("rpm -e kms-plugin");
    assert_eq!(
        node.run("systemctl is-active kms-plugin.service kms-plugin.socket kms-plugin-rebind.path").text,
        "inactive\ninactive\ninactive"
    );
    assert!(node.run("systemctl cat kms-plugin.service").code != 0);
    for kept in
        ["/etc/kms-plugin/secret-id", "/etc/kms-plugin/role-id", "/etc/kms-plugin/config.d/50-mine.toml"]
    {
        node.ok(&format!("test -s {kept}"));
    }
    // rpm itself puts a changed configuration aside; it never deletes it.
    node.ok("grep -q approle /etc/kms-plugin/config.toml.rpmsave");
}
