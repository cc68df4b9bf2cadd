//! The role of examples/ansible, run on a node by a real Ansible.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::node::{Node, QUICK, is_newer, work};
use crate::support::kms::SEED;
use crate::support::vault::Vault;

/// Ansible's ssh connection, with a stand-in for ssh and sshd: it runs the command on the node as sshd would.
const SSH: &str = "#!/bin/sh\nfor command; do :; done\nexec ENTER sh -c \"$command\"\n";

/// The administrator's machine, for one node.
struct Administrator {
    directory: TempDir,
    variables: Value,
}

/// How a run of the playbook ended.
struct Played {
    succeeded: bool,
    /// Tasks that changed something, as Ansible counts them.
    changed: u32,
    text: String,
}

impl Administrator {
    fn of(node: &Node, package: &Path, vault: &Vault) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ssh = directory.path().join("ssh");
        fs::write(&ssh, SSH.replace("ENTER", &node.enter().join(" "))).unwrap();
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
        let inventory = format!(
            "[kube_control_plane]\nnode ansible_user=root ansible_ssh_executable={} \
             ansible_ssh_transfer_method=piped ansible_pipelining=true\n",
            ssh.display()
        );
        fs::write(directory.path().join("hosts"), inventory).unwrap();
        let role_id = fs::read_to_string(vault.file("role-id")).unwrap();
        let config = Node::vault(vault)
            .replace("role_id_file = \"/etc/kms-plugin/role-id\"", &format!("role_id = {role_id:?}"));
        let variables = json!({
            "kms_plugin_package": package,
            "kms_plugin_config": config + QUICK,
            "kms_plugin_secret_id": fs::read_to_string(vault.file("secret-id")).unwrap(),
        });
        Self { directory, variables }
    }

    /// The configuration in the variables.
    fn config(&self) -> String {
        self.variables["kms_plugin_config"].as_str().unwrap().to_owned()
    }

    /// Runs the playbook as examples/ansible/README.md says, with these variables besides its own.
    fn play(&self, other: Value) -> Played {
        let mut variables = self.variables.clone();
        variables.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
        let file = |name: &str| self.directory.path().join(name);
        fs::write(file("vars.json"), variables.to_string()).unwrap();
        fs::write(file("ansible.cfg"), "").unwrap();
        let output = Command::new("ansible-playbook")
            .arg("--inventory")
            .arg(file("hosts"))
            .arg("examples/ansible/site.yml")
            .arg("--extra-vars")
            .arg(format!("@{}", file("vars.json").display()))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            // No settings of whoever runs the tests.
            .env("HOME", self.directory.path())
            .env("ANSIBLE_CONFIG", file("ansible.cfg"))
            .env("ANSIBLE_NOCOLOR", "1")
            .output()
            .expect("ansible-playbook, which tests/system/run installs");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let recap = text.lines().find(|line| line.starts_with("node ") && line.contains("changed="));
        let changed = recap.and_then(|line| line.split("changed=").nth(1)?.split(' ').next()?.parse().ok());
        let changed = changed.unwrap_or_else(|| panic!("{text}"));
        Played { succeeded: output.status.success(), changed, text: text.into_owned() }
    }

    /// A run that must succeed: how many tasks changed something.
    fn changes(&self, other: Value) -> u32 {
        let played = self.play(other);
        assert!(played.succeeded, "{}", played.text);
        played.changed
    }
}

/// The one package below the shared directory whose name has this beginning and this end.
fn package(folder: &str, begin: &str, end: &str) -> PathBuf {
    let files = fs::read_dir(work().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let name = |file: &PathBuf| file.file_name().unwrap().to_string_lossy().into_owned();
    let mut found = files.filter(|file| name(file).starts_with(begin) && name(file).ends_with(end));
    found.next().unwrap_or_else(|| panic!("no {begin}…{end} in {folder}"))
}

/// A later version of the Debian package, with another default configuration.
fn later(package: &Path, directory: &Path) -> PathBuf {
    let (folder, file) = (directory.join("later"), directory.join("kms-plugin_later.deb"));
    let dpkg_deb = |arguments: &[&Path]| {
        let output =
            Command::new("dpkg-deb").arg("-Znone").arg("--root-owner-group").args(arguments).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    dpkg_deb(&[Path::new("--raw-extract"), package, &folder]);
    let change = |name: &str, with: &dyn Fn(String) -> String| {
        let file = folder.join(name);
        fs::write(&file, with(fs::read_to_string(&file).unwrap())).unwrap();
    };
    change("DEBIAN/control", &|text| text.replacen("-1\n", "-9\n", 1));
    change("etc/kms-plugin/config.toml", &|text| text + "# A line of a later version.\n");
    dpkg_deb(&[Path::new("--build"), &folder, &file]);
    file
}

/// How often the agent has reloaded its configuration.
fn reloads(node: &Node) -> usize {
    node.ok("journalctl --no-pager -u kms-plugin").matches("the configuration was reloaded").count()
}

const FILES: &str = "stat -c '%U:%G %a' /etc/kms-plugin/config.toml /etc/kms-plugin/secret-id";
const MODES: &str = "root:kms-plugin 640\nroot:kms-plugin 640";

/// The Debian package on the newer Debian, the RPM on the older one.
#[tokio::test(flavor = "multi_thread")]
async fn the_role_installs_configures_and_reloads_and_bad_files_change_nothing() {
    let vault = Vault::start().await;
    let node = Node::boot();
    let file = if is_newer() {
        package("deb", "kms-plugin_", "-1_amd64.deb")
    } else {
        node.ok("rpm -i --nodeps /mnt/rpm/systemd-stand-in.rpm");
        package("rpm/1", "kms-plugin-0", ".x86_64.rpm")
    };
    let administrator = Administrator::of(&node, &file, &vault);
    assert!(administrator.changes(json!({})) >= 5);
    node.wait_for_phase("ready").await;
    assert_eq!(node.ok("systemctl is-enabled kms-plugin.service kms-plugin.socket"), "enabled\nenabled");
    assert_eq!(node.ok(FILES), MODES);
    let (pid, first) = (node.pid(), node.kms().await.round_trip().await);

    assert_eq!(administrator.changes(json!({})), 0, "a second run changes nothing");
    assert_eq!(reloads(&node), 0);

    let good = administrator.config() + "outage_grace = \"2h\"\n";
    let variables = json!({ "kms_plugin_config": good });
    assert_eq!(administrator.changes(variables), 2, "the file, and the reload");
    assert_eq!((node.pid(), reloads(&node)), (pid, 1));

    if is_newer() {
        bad_files_change_nothing(&node, &administrator, &vault, &good).await;
        comes_back_in_a_later_version(&node, &administrator, &file, &good);
    } else {
        // The copy of the package on the node is still the same: it does not count as installed.
        node.ok("rpm -e kms-plugin");
        assert!(administrator.changes(json!({ "kms_plugin_config": good })) >= 2);
    }
    assert_eq!(node.ok("cat /etc/kms-plugin/config.toml"), good.trim_end());
    node.wait_for_phase("ready").await;
    assert_eq!(node.kms().await.decrypt(&first).await.unwrap(), SEED);
}

/// A configuration that is none, after another secret-id; and one that is valid, with a server that nobody has.
async fn bad_files_change_nothing(node: &Node, administrator: &Administrator, vault: &Vault, good: &str) {
    let nowhere = good.replace(&vault.address, "http://127.0.0.1:1");
    assert_ne!(nowhere, good);
    let (pid, secret_id) = (node.pid(), node.ok("cat /etc/kms-plugin/secret-id"));
    for (config, secret_id_of_this_run, reason) in [
        (good.to_owned() + "outage_mercy = \"2h\"\n", "another", "outage_mercy"),
        (nowhere, secret_id.as_str(), "the reload failed, and the old configuration stays in use"),
    ] {
        let variables = json!({ "kms_plugin_config": config, "kms_plugin_secret_id": secret_id_of_this_run });
        let played = administrator.play(variables);
        assert!(!played.succeeded, "{}", played.text);
        // Where an administrator looks: in the last message.
        let mut tasks = played.text.rsplit("TASK [");
        let last = tasks.find(|task| task.contains("Say what failed")).unwrap_or_default();
        assert!(last.contains(reason), "{}", played.text);
        assert_eq!(node.ok("cat /etc/kms-plugin/config.toml"), good.trim_end());
        assert_eq!(node.ok("cat /etc/kms-plugin/secret-id"), secret_id);
        assert_eq!(node.ok(FILES), MODES);
        assert_eq!(node.ok("ls -A /etc/kms-plugin"), "config.d\nconfig.toml\nsecret-id", "no copies stay");
        node.wait_for_phase("ready").await;
        assert_eq!(node.status().unwrap()["config"]["problem"], Value::Null);
        node.kms().await.round_trip().await;
        assert_eq!(node.pid(), pid, "the agent was never restarted");
    }
}

/// Somebody removed the package; it comes back, in a later version with another default configuration.
fn comes_back_in_a_later_version(node: &Node, administrator: &Administrator, file: &Path, good: &str) {
    node.ok("dpkg --remove kms-plugin");
    let later = later(file, administrator.directory.path());
    let variables = json!({ "kms_plugin_config": good, "kms_plugin_package": later });
    assert!(administrator.changes(variables) >= 2);
    assert!(node.ok("dpkg-query --show kms-plugin").ends_with("-9"));
    // dpkg had removed the empty directory.
    assert_eq!(node.ok("stat -c '%U:%G %a' /etc/kms-plugin/config.d"), "root:kms-plugin 750");
}
