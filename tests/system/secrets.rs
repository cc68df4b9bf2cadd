//! Secrets by systemd's credentials, and the user that systemd makes.

use crate::node::{Node, QUICK};
use crate::support::vault::Vault;

fn with_credential(vault: &Vault) -> String {
    let table = Node::vault(vault);
    let file = table.lines().find(|line| line.starts_with("secret_id_file")).unwrap().to_owned();
    table.replace(&file, "credential = \"secret-id\"") + QUICK
}

fn drop_in(node: &Node, lines: &str) {
    node.ok(&format!("mkdir -p /etc/systemd/system/kms-plugin.service.d && printf '[Service]\\n{lines}\\n' > /etc/systemd/system/kms-plugin.service.d/50-test.conf && systemctl daemon-reload"));
}

fn secret(vault: &Vault) -> String {
    std::fs::read_to_string(vault.file("secret-id")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_read_at_each_start_and_a_new_one_by_a_restart() {
    let vault = Vault::start().await;
    let node = Node::boot();
    node.install("1");
    node.configure(&vault, "");
    node.write("/etc/kms-plugin/config.toml", &with_credential(&vault));
    // Only root may read it: systemd passes it.
    node.ok("mv /etc/kms-plugin/secret-id /root/secret-id && chmod 600 /root/secret-id && chown root:root /root/secret-id");
    drop_in(&node, "LoadCredential=secret-id:/root/secret-id");
    node.ok("systemctl enable --now kms-plugin");
    node.wait_for_phase("ready").await;
    let first = node.kms().await.round_trip().await;
    vault.new_secret_id("kms").await;
    std::fs::write(node.path("/root/secret-id"), secret(&vault)).unwrap();
    node.ok("systemctl restart kms-plugin");
    node.wait_for_phase("ready").await;
    assert_eq!(node.kms().await.decrypt(&first).await.unwrap(), crate::support::kms::SEED);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_credential_works_with_the_hosts_key() {
    let vault = Vault::start().await;
    let node = Node::boot();
    node.install("1");
    node.configure(&vault, "");
    node.write("/etc/kms-plugin/config.toml", &with_credential(&vault));
    node.ok("systemd-creds setup && systemd-creds encrypt --with-key=host --name=secret-id /etc/kms-plugin/secret-id /etc/kms-plugin/secret-id.cred && rm /etc/kms-plugin/secret-id");
    drop_in(&node, "LoadCredentialEncrypted=secret-id:/etc/kms-plugin/secret-id.cred");
    node.ok("systemctl enable --now kms-plugin");
    node.wait_for_phase("ready").await;
    node.kms().await.round_trip().await;
    assert!(!node.ok("cat /etc/kms-plugin/secret-id.cred").contains(secret(&vault).trim()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_runs_as_a_dynamic_user() {
    let vault = Vault::start().await;
    let node = Node::boot();
    node.install("1");
    node.configure(&vault, "");
    node.write("/etc/kms-plugin/config.toml", &with_credential(&vault));
    // As a MachineConfig leaves it: the user does not exist, and root owns the files.
    node.ok("userdel kms-plugin; mv /etc/kms-plugin/secret-id /root/; chown -R root:root /etc/kms-plugin && chmod 755 /etc/kms-plugin /etc/kms-plugin/config.d && chmod 644 /etc/kms-plugin/config.toml /etc/kms-plugin/role-id");
    drop_in(&node, "LoadCredential=secret-id:/root/secret-id");
    node.ok("cp /usr/share/kms-plugin/dropins/dynamic-user.conf /etc/systemd/system/kms-plugin.service.d/60-dynamic-user.conf && systemctl daemon-reload");
    node.ok("systemctl enable --now kms-plugin");
    node.wait_for_phase("ready").await;
    let first = node.kms().await.round_trip().await;
    let uid: u32 = node.ok(&format!("stat -c %u /proc/{}", node.pid())).parse().unwrap();
    assert!((61184..=65519).contains(&uid), "{uid} is not a dynamic user");
    node.ok("systemctl restart kms-plugin");
    node.wait_for_phase("ready").await;
    assert_eq!(node.kms().await.decrypt(&first).await.unwrap(), crate::support::kms::SEED);
}
