//! The README, followed to the letter by an administrator whose umask is 027.

use std::fs;
use std::path::Path;

use crate::node::Node;
use crate::support::checked::Checked;
use crate::support::pki::Pki;
use crate::support::vault::Vault;

/// The lines of the README's installation that are typed as root, and the configuration.
fn steps() -> (Vec<String>, String) {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, section) = readme.split_once("\n## Use it with Vault or OpenBao\n").unwrap();
    let (section, _) = section.split_once("\nThen give kube-apiserver").unwrap();
    let (mut typed, mut toml, mut block) = (Vec::new(), String::new(), "");
    for line in section.lines().map(str::trim_start) {
        if let Some(name) = line.strip_prefix("```") {
            block = name;
        } else if let Some(line) = line.strip_prefix("# ").filter(|_| block == "console") {
            typed.push(line.split("  #").next().unwrap().trim().to_owned());
        } else if block == "toml" {
            toml.push_str(&format!("{line}\n"));
        }
    }
    (typed, toml)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_leads_to_a_ready_agent_under_umask_027() {
    let pki = Pki::new(&["127.0.0.1"]);
    let vault = Vault::with_tls(&pki).await;
    let node = Node::boot();
    node.ok("rpm -i --nodeps /mnt/rpm/systemd-stand-in.rpm");
    // What the administrator brings: the CA, and the answers of Vault.
    fs::copy(&pki.ca, node.path("/root/vault-ca.pem")).unwrap();
    let answer = |name: &str| fs::read_to_string(vault.file(name)).unwrap();
    fs::write(node.path("/root/secret-id"), answer("secret-id")).unwrap();
    let (typed, toml) = steps();
    let toml = toml
        .replace("https://vault-1.example:8200\", \"https://vault-2.example:8200", &vault.address)
        .replace("11111111-2222-3333-4444-555555555555", &answer("role-id"));
    assert!(toml.contains(&vault.address) && !toml.contains("1111"), "{toml}");
    let mut checked = 0;
    for line in &typed {
        if line.starts_with("kms-plugin check") {
            // Between the last two steps: the configuration is written.
            fs::write(node.path("/root/config.toml"), &toml).unwrap();
            node.ok("umask 027 && cat /root/config.toml > /etc/kms-plugin/config.toml");
            let said = node.run("kms-plugin check --output json 2>/dev/null");
            let found = Checked::read(said.code, &said.text);
            found.warns(&["service", "socket"], &["was not started yet"]);
            checked += 1;
            continue;
        }
        let line = line
            .replace(
                "dnf install ./target/rpm/kms-plugin-0.1.0-1*.rpm",
                "rpm -i /mnt/rpm/1/kms-plugin-0.1.0-1*.x86_64.rpm",
            )
            .replace(
                "vault write -f -field=secret_id auth/approle/role/kms/secret-id",
                "cat /root/secret-id",
            );
        assert!(!line.starts_with("dnf") && !line.contains("vault write"), "{line}");
        if line.starts_with("kms-plugin probe") {
            node.wait_for_phase("ready").await;
        }
        node.ok(&format!("umask 027 && cd /root && {line}"));
    }
    assert!(checked == 1 && typed.len() >= 6, "{typed:#?}");
    assert_eq!(node.show("kms-plugin", "NRestarts"), "0");
    let said = node.run("kms-plugin check --output json 2>/dev/null");
    Checked::read(said.code, &said.text).is_green();
    assert_eq!(said.code, 0, "{}", said.text);
}
