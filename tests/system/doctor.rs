//! `check` and `support-bundle` on a node: the units, the service's user, systemd's credentials, the real journal.

use std::fs;

use crate::node::{Node, QUICK};
use crate::support::checked::Checked;
use crate::support::eventually;
use crate::support::vault::Vault;

fn check(node: &Node) -> Checked {
    let said = node.run("kms-plugin check --login --output json --timeout 90s 2>/dev/null");
    Checked::read(said.code, &said.text)
}

async fn green(node: &Node) {
    eventually("a green check", async || {
        let found = check(node);
        if found.code == 0 { Ok(()) } else { Err(format!("{found:#?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_faults_of_the_units_and_the_service_user() {
    let vault = Vault::start().await;
    let node = Node::boot();
    node.install("1");
    node.configure(&vault, QUICK);
    // Before it was ever started.
    let found = check(&node);
    found.warns(&["service", "socket"], &["was not started yet", "systemctl enable --now kms-plugin"]);
    node.ok("systemctl enable --now kms-plugin");
    node.wait_for_phase("ready").await;
    green(&node).await;
    assert_eq!(check(&node).outcomes("service"), ["ok", "ok"]);

    // A secret that root can read and the service cannot; the remedy is a command.
    node.ok("chown root:root /etc/kms-plugin/secret-id && chmod 0600 /etc/kms-plugin/secret-id");
    let found = check(&node);
    found.fails(&["credentials"], &["user kms-plugin cannot read it"]);
    let failed = found.findings.iter().find(|finding| finding["outcome"] == "fail").unwrap();
    node.ok(failed["remedy"].as_str().unwrap());
    green(&node).await;

    node.ok("systemctl stop kms-plugin.socket");
    check(&node).fails(&["service", "socket"], &["although it is enabled", "systemctl start kms-plugin"]);
    node.ok("systemctl start kms-plugin");
    green(&node).await;

    node.ok("systemctl disable kms-plugin kms-plugin.socket");
    check(&node).warns(&["service"], &["after the next boot", "systemctl enable kms-plugin"]);
    node.ok("systemctl stop kms-plugin.socket && systemctl mask kms-plugin");
    check(&node).fails(&["service", "socket"], &["is masked", "systemctl unmask"]);
    node.ok("systemctl unmask kms-plugin.service kms-plugin.socket && systemctl enable --now kms-plugin");
    green(&node).await;

    node.ok("touch /usr/lib/systemd/system/kms-plugin.service");
    check(&node).warns(&["service"], &["changed after systemd read them", "daemon-reload"]);
    node.ok("mkdir -p /etc/systemd/system/kms-plugin.service.d && printf '[Unit]\\nStartLimitIntervalSec=10\\n[Service]\\nWatchdogSec=0\\nEnvironment=KMS_PLUGIN_LOG_LEVEL=info\\n' > /etc/systemd/system/kms-plugin.service.d/local.conf");
    node.ok("systemctl daemon-reload && systemctl restart kms-plugin");
    node.wait_for_phase("ready").await;
    let found = check(&node);
    found.warns(&["configuration", "service"], &["KMS_PLUGIN_LOG_LEVEL", "settings of its own"]);
    found.warns(&["configuration", "service"], &["no watchdog", "WatchdogSec="]);
    found.warns(&["configuration", "service"], &["start limit", "StartLimitIntervalSec="]);
    node.ok("rm -r /etc/systemd/system/kms-plugin.service.d && systemctl daemon-reload && systemctl restart kms-plugin");
    green(&node).await;

    // A configuration that does not load: the service stays up, and says why.
    node.write("/etc/kms-plugin/config.d/broken.toml", "[vualt]\n");
    node.ok("systemctl restart kms-plugin");
    node.wait_until("systemctl show --value -p StatusText kms-plugin", |said| {
        said.text.contains("the configuration does not load")
    })
    .await;
    let found = check(&node);
    let told = found.findings.iter().find(|finding| finding["check"] == "configuration").unwrap();
    assert!(told["outcome"] == "fail" && told.to_string().contains("did you mean vault"), "{found:#?}");
    node.ok("rm /etc/kms-plugin/config.d/broken.toml");
    node.wait_for_phase("ready").await;
    green(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_and_bundle_work_with_systemd_credentials() {
    let vault = Vault::start().await;
    let node = Node::boot();
    node.install("1");
    node.configure(&vault, QUICK);
    let config = fs::read_to_string(node.path("/etc/kms-plugin/config.toml")).unwrap();
    let line = config.lines().find(|line| line.starts_with("secret_id_file")).unwrap();
    node.write("/etc/kms-plugin/config.toml", &config.replace(line, "credential = \"secret-id\""));
    node.ok("mv /etc/kms-plugin/secret-id /root/secret-id && chown root:root /root/secret-id && chmod 0600 /root/secret-id");
    // Secrets in units and in the output of programs.
    let stray = "hvs.CAESIStrayTokenStrayTokenStray";
    let secret = fs::read_to_string(vault.file("secret-id")).unwrap();
    let unit = format!(
        "[Service]\nLoadCredential=secret-id:/root/secret-id\nEnvironment=VAULT_TOKEN=strayvariable\nSetCredential=other:straycredential\nExecStartPre=/bin/echo the secret-id is {secret}, the token {stray}\n"
    );
    node.ok("mkdir -p /etc/systemd/system/kms-plugin.service.d");
    fs::write(node.path("/etc/systemd/system/kms-plugin.service.d/local.conf"), unit).unwrap();
    node.ok("systemctl daemon-reload && systemctl enable --now kms-plugin");
    node.wait_for_phase("ready").await;
    green(&node).await;
    // Not running: `check` reads the file that the unit names.
    node.ok("systemctl stop kms-plugin.socket");
    check(&node).fails(&["service", "socket"], &["although it is enabled"]);
    assert_eq!(check(&node).outcomes("login"), ["ok"]);
    node.ok("systemctl start kms-plugin");
    green(&node).await;

    node.ok("kms-plugin support-bundle --file /root/bundle.tar.gz && mkdir /root/bundle && tar -xzf /root/bundle.tar.gz -C /root/bundle --strip-components=1");
    let all = node.ok("cat /root/bundle/*");
    for gone in [secret.as_str(), stray, "strayvariable", "straycredential"] {
        assert!(node.journal().contains(&secret), "the journal holds what was planted");
        assert!(!all.contains(gone), "{gone} is in the bundle");
    }
    let journal = node.ok("cat /root/bundle/journal.txt");
    assert!(journal.contains("the secret-id is [redacted]") && journal.contains("serves on"), "{journal}");
    let units = node.ok("cat /root/bundle/units.txt");
    for kept in ["LoadCredential=secret-id:/root/secret-id", "VAULT_TOKEN=[redacted]", "ActiveState=active"] {
        assert!(units.contains(kept), "{kept}: {units}");
    }
    assert_eq!(node.ok("stat -c %a /root/bundle.tar.gz"), "600");
}
