//! The table: how each fault is seeded on a good node, and what the first bad line of `check` must say.

/// How a fault is seeded. All but those of a running service restart the service afterwards, so that it meets the fault.
pub enum Seed {
    /// A shell line on the node.
    Node(&'static str),
    /// A shell line on the node, without a restart.
    Running(&'static str),
    /// Lines of a drop-in of the service, below `[Service]`.
    DropIn(&'static str),
    /// A replacement in the configuration.
    Config(&'static str, &'static str),
    /// A line of the role's policy that is missing.
    Policy(&'static str),
    /// The server stops answering.
    Frozen,
    /// The server is sealed.
    Sealed,
}

pub struct Fault {
    pub name: &'static str,
    pub seed: Seed,
    /// What the first line that warns or fails must say, as a whole.
    pub cause: &'static [&'static str],
}

const fn fault(name: &'static str, seed: Seed, cause: &'static [&'static str]) -> Fault {
    Fault { name, seed, cause }
}

use Seed::{Config, DropIn, Frozen, Node, Policy, Running, Sealed};

pub const FAULTS: [Fault; 40] = [
    // What the service's user may read.
    fault(
        "a configuration that only root can read (umask 077)",
        Node("chown root:root /etc/kms-plugin/config.toml && chmod 0600 /etc/kms-plugin/config.toml"),
        &["/etc/kms-plugin/config.toml", "user kms-plugin cannot read it"],
    ),
    fault(
        "a directory that was made before the package (umask 027)",
        Node("chown root:root /etc/kms-plugin && chmod 0750 /etc/kms-plugin"),
        &["user kms-plugin cannot read it: /etc/kms-plugin does not allow it"],
    ),
    fault(
        "a fragment that only root can read",
        Node("(umask 077; echo > /etc/kms-plugin/config.d/50-local.toml)"),
        &["config.d/50-local.toml", "user kms-plugin cannot read it"],
    ),
    fault(
        "a secret-id that only root can read",
        Node("chown root:root /etc/kms-plugin/secret-id && chmod 0600 /etc/kms-plugin/secret-id"),
        &["/etc/kms-plugin/secret-id", "user kms-plugin cannot read it"],
    ),
    fault(
        "a secret-id in a directory that the unit hides",
        Node(
            "cp -p /etc/kms-plugin/secret-id /tmp/secret-id && sed -i 's|/etc/kms-plugin/secret-id|/tmp/secret-id|' /etc/kms-plugin/config.toml",
        ),
        &["/tmp/secret-id", "/tmp does not allow it"],
    ),
    fault(
        "a secret-id that everybody can read",
        Node("chmod 0644 /etc/kms-plugin/secret-id"),
        &["/etc/kms-plugin/secret-id", "0644"],
    ),
    // The configuration.
    fault("a misspelt key", Config("addresses", "adresses"), &["did you mean vault.addresses"]),
    fault(
        "a change that was not reloaded",
        Running("printf '\\n# changed\\n' >> /etc/kms-plugin/config.toml"),
        &["the configuration on disk is not the one that the running agent has read"],
    ),
    fault(
        "a variable of a drop-in that overrides the configuration",
        DropIn("Environment=KMS_PLUGIN_VAULT_TRANSIT_KEY=other-key"),
        &["KMS_PLUGIN_VAULT_TRANSIT_KEY", "settings of its own"],
    ),
    fault(
        "a configuration elsewhere, named by a drop-in",
        DropIn("ExecStart=\\nExecStart=/usr/bin/kms-plugin serve --config /etc/kms-plugin/other.toml"),
        &["--config", "settings of its own"],
    ),
    // A service that does not stay up.
    fault(
        "a program that is missing",
        DropIn("ExecStart=\\nExecStart=/usr/local/bin/none serve"),
        &["203", "/usr/local/bin/none"],
    ),
    fault("a user that is missing", DropIn("User=nobodyhere"), &["user nobodyhere does not exist"]),
    fault(
        "a path of the sandbox that is missing",
        DropIn("ReadWritePaths=/nonexistent"),
        &["226", "/nonexistent"],
    ),
    fault(
        "a credential whose file is missing",
        DropIn("LoadCredential=extra:/nonexistent/extra"),
        &["/nonexistent/extra, which is missing"],
    ),
    fault("a command before the start that fails", DropIn("ExecStartPre=/bin/false"), &["/bin/false"]),
    fault(
        "an admin address that another process has",
        Node(
            "systemctl stop kms-plugin.socket kms-plugin.service; systemd-run --quiet --unit=listener systemd-socket-activate -l 127.0.0.1:8690 /bin/cat; sleep 0.5",
        ),
        &["127.0.0.1:8690"],
    ),
    // Limits and restrictions of a drop-in.
    fault("no network", DropIn("PrivateNetwork=yes"), &["PrivateNetwork=yes"]),
    fault("few open files", DropIn("LimitNOFILE=16"), &["LimitNOFILE"]),
    fault(
        "only unix sockets",
        DropIn("RestrictAddressFamilies=\\nRestrictAddressFamilies=AF_UNIX"),
        &["AF_INET", "RestrictAddressFamilies"],
    ),
    fault("one thread", DropIn("LimitNPROC=1"), &["LimitNPROC"]),
    fault(
        "no runtime directory, after a boot",
        Node(
            "mkdir -p /etc/systemd/system/kms-plugin.service.d; printf '[Service]\\nRuntimeDirectory=\\n' > /etc/systemd/system/kms-plugin.service.d/local.conf; systemctl stop kms-plugin.socket kms-plugin.service; rm -rf /run/kms-plugin; systemctl daemon-reload",
        ),
        &["RuntimeDirectory"],
    ),
    fault("little address space", DropIn("LimitAS=20M"), &["LimitAS"]),
    fault("no watchdog", DropIn("WatchdogSec=0"), &["WatchdogSec=0"]),
    fault(
        "no restart after an end",
        Node(
            "mkdir -p /etc/systemd/system/kms-plugin.service.d; printf '[Service]\\nRestart=no\\n' > /etc/systemd/system/kms-plugin.service.d/local.conf; systemctl daemon-reload",
        ),
        &["Restart=no"],
    ),
    // The units.
    fault(
        "masked",
        Running("systemctl stop kms-plugin.socket kms-plugin.service && systemctl mask kms-plugin.service"),
        &["is masked"],
    ),
    fault(
        "stopped",
        Running("systemctl stop kms-plugin.socket kms-plugin.service"),
        &["inactive (dead), although it is enabled"],
    ),
    fault(
        "not enabled",
        Running("systemctl disable kms-plugin.service kms-plugin.socket"),
        &["kms-plugin.service: is disabled"],
    ),
    fault("a drop-in that systemd cannot use", DropIn("ExecStart="), &["cannot be loaded", "ExecStart="]),
    fault(
        "a unit file that systemd did not read again",
        Running("touch /usr/lib/systemd/system/kms-plugin.service"),
        &["daemon-reload"],
    ),
    fault(
        "an upgrade without a restart",
        Running(
            "cp -p /usr/bin/kms-plugin /usr/bin/kms-plugin.new && mv /usr/bin/kms-plugin.new /usr/bin/kms-plugin",
        ),
        &["was replaced after it was started"],
    ),
    fault(
        "nobody makes a deleted socket again",
        Running("systemctl stop kms-plugin-rebind.path"),
        &["kms-plugin-rebind.path"],
    ),
    fault(
        "another path in the socket unit",
        Node(
            "mkdir -p /etc/systemd/system/kms-plugin.socket.d; printf '[Socket]\\nListenStream=\\nListenStream=/run/kmsplugin/other.sock\\n' > /etc/systemd/system/kms-plugin.socket.d/local.conf; systemctl daemon-reload; systemctl stop kms-plugin.socket kms-plugin.service; systemctl start kms-plugin.socket",
        ),
        &["/run/kmsplugin/other.sock, but server.socket is /run/kmsplugin/kms.sock"],
    ),
    // The socket and the directories.
    fault(
        "a socket that everybody can use",
        Running("chmod 0666 /run/kmsplugin/kms.sock"),
        &["/run/kmsplugin/kms.sock", "0666"],
    ),
    fault(
        "a directory in place of the socket",
        Node(
            "systemctl stop kms-plugin-rebind.path kms-plugin.socket kms-plugin.service; rm -f /run/kmsplugin/kms.sock; mkdir -p /run/kmsplugin/kms.sock/x",
        ),
        &["/run/kmsplugin/kms.sock", "a directory is at this path"],
    ),
    fault(
        "a full runtime directory",
        Node(
            "mount -t tmpfs -o size=1m,mode=0750,uid=$(id -u kms-plugin),gid=$(id -g kms-plugin) tmpfs /run/kms-plugin; head -c 2m /dev/zero > /run/kms-plugin/fill || df /run/kms-plugin",
        ),
        &["/run/kms-plugin", "full"],
    ),
    fault(
        "an agent that hangs",
        Running("kill -STOP $(systemctl show --value -p MainPID kms-plugin)"),
        &["hangs"],
    ),
    // Vault.
    fault("a server that does not answer", Frozen, &["did not answer in time"]),
    fault("a sealed server", Sealed, &["sealed"]),
    fault("a policy without encrypt", Policy("encrypt"), &["transit/encrypt/kms-key", "403"]),
    fault("a key that is missing", Config("kms-key", "other-key"), &["transit/keys/other-key", "403"]),
];
