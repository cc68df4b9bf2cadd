//! A node: a container with a real systemd, into which the package is installed.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::support::eventually;
use crate::support::kms::Kms;
use crate::support::vault::Vault;

/// Short intervals, for quick tests.
pub const QUICK: &str =
    "[health]\nkey_check_interval = \"200ms\"\nprobe_interval = \"300ms\"\nready_timeout = \"5s\"\n";

/// A booted node.
pub struct Node {
    directory: PathBuf,
    leader: u32,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub text: String,
}

/// What `tests/system/run` has built; `/mnt` on the nodes.
pub fn work() -> PathBuf {
    std::env::var_os("KMS_SYSTEM_DIR").map(PathBuf::from).expect("these tests are run by tests/system/run")
}

fn suite() -> String {
    std::env::var("KMS_SYSTEM_SUITE").expect("these tests are run by tests/system/run")
}

/// Whether the node's systemd is 254 or newer.
pub fn is_newer() -> bool {
    suite() != "bookworm"
}

fn container(arguments: &[&str]) -> u32 {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/container");
    let output = Command::new(script).args(arguments).env("KMS_SYSTEM_SHARE", work()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_default()
}

impl Node {
    /// Boots a fresh node of the suite under test.
    pub fn boot() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = work().join(format!("node-{}-{number}", std::process::id()));
        let root = work().join(format!("rootfs-{}", suite()));
        let paths = [directory.display().to_string(), root.display().to_string()];
        let leader = container(&["boot", &paths[0], &paths[1]]);
        Self { directory, leader }
    }

    /// A node with the package installed, configured for `vault` and started.
    pub async fn serving(vault: &Vault, extra: &str) -> Self {
        Self::serving_by(|node| node.install("1"), vault, extra).await
    }

    /// The same, with the package that this installs.
    pub async fn serving_by(install: impl Fn(&Self), vault: &Vault, extra: &str) -> Self {
        let node = Self::boot();
        install(&node);
        node.configure(vault, extra);
        node.ok("systemctl enable --now kms-plugin");
        node.wait_for_phase("ready").await;
        node
    }

    /// Powers the node off and boots it again: what is on its disk stays.
    pub fn reboot(&mut self) {
        self.leader = container(&["reboot", &self.directory.display().to_string()]);
    }

    /// The command that runs another one as root inside, with nothing of this environment.
    pub fn enter(&self) -> Vec<String> {
        let leader = self.leader.to_string();
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        ["nsenter", "-t", &leader, "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "env", "-i", path]
            .into_iter()
            .chain(["HOME=/root", "LANG=C.UTF-8", "SYSTEMD_PAGER=cat", "SYSTEMD_COLORS=0"])
            .map(str::to_owned)
            .collect()
    }

    /// Runs a shell line as root inside.
    pub fn run(&self, line: &str) -> Said {
        let enter = self.enter();
        let output = Command::new(&enter[0]).args(&enter[1..]).args(["sh", "-c", line]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        Said { code: output.status.code().unwrap_or(-1), text: text.trim_end().to_owned() }
    }

    /// Runs a line that must succeed; what it said.
    pub fn ok(&self, line: &str) -> String {
        let said = self.run(line);
        assert_eq!(said.code, 0, "{line}: {}\n{}", said.text, self.journal());
        said.text
    }

    /// Installs the stand-ins and our package of this release (`1`, `2`, or `254` for newer systemd).
    pub fn install(&self, release: &str) {
        self.ok("rpm -i --nodeps /mnt/rpm/systemd-stand-in.rpm");
        self.ok(&format!("rpm -i /mnt/rpm/{release}/kms-plugin-*.x86_64.rpm"));
    }

    /// Installs, or upgrades to, this revision of a Debian package.
    pub fn install_deb(&self, package: &str, revision: &str) {
        let file = format!("/mnt/deb/{package}_*-{revision}_amd64.deb");
        self.ok(&format!("DEBIAN_FRONTEND=noninteractive dpkg -i {file}"));
    }

    /// A path inside, as seen from here.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.leader))
    }

    /// Writes a file as root:kms-plugin 0640, as the documentation says for configuration and secrets.
    pub fn write(&self, inside: &str, text: &str) {
        let path = self.path(inside);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let group = self.ok("getent group kms-plugin | cut -d: -f3");
        chown(&path, Some(0), Some(group.parse().unwrap())).unwrap();
    }

    /// Puts the credentials on the node, and a configuration that names them.
    pub fn configure(&self, vault: &Vault, extra: &str) {
        for name in ["role-id", "secret-id"] {
            self.write(&format!("/etc/kms-plugin/{name}"), &fs::read_to_string(vault.file(name)).unwrap());
        }
        self.write("/etc/kms-plugin/config.toml", &(Self::vault(vault) + extra));
    }

    /// The `[vault]` table that [`Self::configure`] writes.
    pub fn vault(vault: &Vault) -> String {
        let host = vault.file("role-id").parent().unwrap().display().to_string();
        vault.vault_config().replace(&host, "/etc/kms-plugin")
    }

    /// A property of a unit.
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.ok(&format!("systemctl show --value -p {property} {unit}"))
    }

    /// The agent's process, as numbered inside.
    pub fn pid(&self) -> String {
        self.show("kms-plugin", "MainPID")
    }

    /// Waits until systemd has started a process other than this one.
    pub async fn wait_for_new_process(&self, old: &str) {
        self.wait_until("systemctl show --value -p MainPID kms-plugin", |said| {
            said.text != old && said.text != "0"
        })
        .await;
    }

    pub fn socket(&self) -> PathBuf {
        self.path("/run/kmsplugin/kms.sock")
    }

    pub async fn kms(&self) -> Kms {
        Kms::connect(&self.socket()).await
    }

    /// `/status` of the agent.
    pub fn status(&self) -> Result<Value, String> {
        let said = self.run("printf 'GET /status HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' | perl -MIO::Socket::UNIX -e '$s = IO::Socket::UNIX->new(\"/run/kms-plugin/admin.sock\") or die $!; print $s <STDIN>; print <$s>'");
        let (_, body) = said.text.split_once("\r\n\r\n").ok_or_else(|| said.text.clone())?;
        serde_json::from_str(body).map_err(|error| error.to_string())
    }

    pub async fn wait_for_phase(&self, phase: &str) {
        eventually(&format!("phase {phase}"), async || match self.status() {
            Ok(status) if status["phase"] == phase => Ok(()),
            other => Err(format!("{other:?}\n{}", self.journal())),
        })
        .await;
    }

    /// Waits until a line says what it should.
    pub async fn wait_until(&self, line: &str, right: impl Fn(&Said) -> bool) -> Said {
        eventually(line, async || {
            let said = self.run(line);
            if right(&said) { Ok(said) } else { Err(format!("{said:?}\n{}", self.journal())) }
        })
        .await
    }

    /// The last lines about us.
    pub fn journal(&self) -> String {
        self.run(
            "journalctl --no-pager -n 40 -o short-precise -u 'kms-plugin*'; systemctl --failed --no-legend",
        )
        .text
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        container(&["stop", &self.directory.display().to_string()]);
    }
}
