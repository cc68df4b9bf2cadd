//! MachineConfig for a pool of OpenShift nodes, with three ways to deliver the binary.
//!
//! A MachineConfig writes files and units. It cannot create users, directories or links, and it has no room for a
//! binary (1.5 MiB for all MachineConfigs of a pool).
//!
//! The node disruption policy is a product of its own. The Machine Config Operator applies a policy to added and
//! removed files, too: with the policy in place, the first rollout would reload a service that is not there yet.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use toml::Table;

use super::ManifestError;
use super::apply_unit;
use super::credentials::replace_files;
use super::disruption_policy::disruption_policy;
use super::ignition::{APPLY, FETCH, Ignition};
use super::payload::{self, NamedFile, named_files, socket_directories};
use super::pull::{PROXY, PULLS};
use super::unit_dropin::drop_in;
use crate::config::{Merged, Settings};
use crate::kubernetes::endpoint;

/// The version of Ignition's format that every OpenShift 4 accepts.
const IGNITION: &str = "3.2.0";
/// The directory of fetched binaries; `/usr` is read-only.
const BINARIES: &str = "/var/lib/kms-plugin-bin";

/// The comment before the MachineConfig.
const MACHINE_CONFIG: &str = "Files and units of kms-plugin. The first rollout drains and reboots the nodes one after the other.\n\
    When it is finished on every node, apply the policy: the same command with --policy. Then later changes need no\n\
    reboot. Never apply the policy before: the operator would reload a service that is not there yet, and degrade the node.\n\
    To remove kms-plugin: first its entries in the policy, then this object.";
/// The comment before the policy.
const POLICY: &str = "Apply this only when the first rollout of the MachineConfig is finished on every node:\n\
    oc wait machineconfigpool/POOL --for=condition=Updated --timeout=1h\n\
    Then changes of our files and units need no reboot. There is one such object in a cluster: merge this into it.\n\
    To remove kms-plugin: first these entries, then the MachineConfig.";

const SERVICE: &str = include_str!("../../systemd/kms-plugin.service");
const SOCKET: &str = include_str!("../../systemd/kms-plugin.socket");
const REBIND_PATH: &str = include_str!("../../systemd/kms-plugin-rebind.path");
const REBIND_SERVICE: &str = include_str!("../../systemd/kms-plugin-rebind.service");
const DYNAMIC_USER: &str = include_str!("../../systemd/dropins/dynamic-user.conf");

pub(crate) struct MachineConfig<'a> {
    pub delivery: Delivery<'a>,
    /// Name of the pool.
    pub pool: &'a str,
    /// Names of the secrets to put into the manifest in clear, as in the unit's drop-in.
    pub include_secrets: &'a [String],
    pub part: Part,
}

/// What is rendered. Only one part may be applied at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The MachineConfig, and for an image its MachineOSConfig.
    MachineConfig,
    /// The node disruption policy, for the time after the first rollout.
    Policy,
}

/// How the binary comes to the nodes. Images are named by their digest ([`super::check_image`]).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Delivery<'a> {
    /// The package in the operating system's image (MachineOSConfig).
    Image {
        /// What `dnf install` takes.
        package: &'a str,
        /// Where the Machine Config Operator pushes the new image, and the Secret that it uses.
        push_spec: &'a str,
        push_secret: &'a str,
    },
    /// A container that systemd runs (Quadlet).
    Quadlet { image: &'a str },
    /// A unit copies the binary out of an image.
    Fetch { image: &'a str },
}

pub(crate) struct Rendered {
    pub text: String,
    /// Messages for the administrator.
    pub warnings: Vec<String>,
}

/// # Errors
/// The settings do not fit a MachineConfig, or a file that they name cannot be read here.
pub(crate) fn render(
    options: &MachineConfig<'_>,
    merged: &Merged,
    settings: &Settings,
) -> Result<Rendered, ManifestError> {
    let mut config: Table = merged.extract()?;
    check_socket(&settings.server.socket)?;
    let files = named_files(settings);
    // A container reads root's files itself. A service with a user of its own gets its secrets from systemd.
    let credentials = match options.delivery {
        Delivery::Quadlet { .. } => Vec::new(),
        Delivery::Image { .. } | Delivery::Fetch { .. } => {
            check_readable(&files)?;
            replace_files(&mut config)
        }
    };
    let mut ignition = Ignition::default();
    let text = format!("# Rendered by kms-plugin render machineconfig.\n{config}");
    ignition.files.push(payload::ignition("/etc/kms-plugin/config.toml", 0o644, text.as_bytes()));
    let warnings = add_files(options.include_secrets, &files, &mut ignition)?;
    let mut dropins = Vec::new();
    if !credentials.is_empty() {
        dropins.push(json!({ "name": "50-credentials.conf", "contents": drop_in(&credentials, false) }));
    }
    match options.delivery {
        Delivery::Image { .. } => {
            // The users of an image and of a node may differ, so systemd makes a dynamic user.
            dropins.push(json!({ "name": "30-dynamic-user.conf", "contents": DYNAMIC_USER }));
            // The build of the image enables the service. Without `enabled` here, the Machine Config Operator runs
            // `systemctl preset` at each change of a drop-in, and the package's preset disables the service.
            ignition.units.push(json!({ "name": "kms-plugin.service", "enabled": true, "dropins": dropins }));
        }
        Delivery::Quadlet { image } => {
            let directory = settings.server.socket.parent().map(Path::to_path_buf).unwrap_or_default();
            let container = quadlet(image, &directory, &socket_directories(settings));
            ignition.files.push(payload::ignition(
                "/etc/containers/systemd/kms-plugin.container",
                0o644,
                container.as_bytes(),
            ));
            add_socket_units(&mut ignition);
            ignition.units.push(json!({ "name": APPLY, "contents": apply_unit::quadlet(image) }));
        }
        Delivery::Fetch { image } => add_fetched_service(image, dropins, &mut ignition),
    }
    if options.part == Part::Policy {
        let policy = (POLICY.to_owned(), disruption_policy(&ignition, &credentials));
        return Ok(Rendered { text: super::documents(&[policy])?, warnings: Vec::new() });
    }
    let Ignition { files, units } = &ignition;
    let name = format!("99-{}-kms-plugin", options.pool);
    let machine_config = json!({
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "MachineConfig",
        "metadata": { "name": name, "labels": { "machineconfiguration.openshift.io/role": options.pool } },
        "spec": { "config": {
            "ignition": { "version": IGNITION },
            "storage": { "files": files },
            "systemd": { "units": units },
        }},
    });
    let mut documents = vec![(MACHINE_CONFIG.to_owned(), machine_config)];
    if let Delivery::Image { package, push_spec, push_secret } = options.delivery {
        documents.push((
            "The operating system's image with the package in it. A pool has one MachineOSConfig: if there is one already, merge this into it."
                .to_owned(),
            operating_system(options.pool, package, push_spec, push_secret),
        ));
    }
    Ok(Rendered { text: super::documents(&documents)?, warnings })
}

/// The socket unit listens on one path. With another path in the configuration, nobody would serve the API server.
fn check_socket(socket: &Path) -> Result<(), ManifestError> {
    let listens = SOCKET.lines().find_map(|line| line.strip_prefix("ListenStream=")).unwrap_or_default();
    if endpoint::normalise(&socket.display().to_string()) == endpoint::normalise(listens) {
        return Ok(());
    }
    Err(ManifestError::OtherSocket(socket.to_owned(), listens))
}

/// A JWT changes while the service runs, so it cannot be a systemd credential, and a dynamic user cannot read root's
/// files.
fn check_readable(files: &[NamedFile]) -> Result<(), ManifestError> {
    let jwt = |file: &NamedFile| matches!(file, NamedFile::Secret(name, _) if name.starts_with("jwt"));
    if files.iter().any(jwt) { Err(ManifestError::JwtFile) } else { Ok(()) }
}

/// Adds the public files, and the secrets that are named in `include`, each with a warning.
fn add_files(
    include: &[String],
    files: &[NamedFile],
    ignition: &mut Ignition,
) -> Result<Vec<String>, ManifestError> {
    let is_known = |wanted: &String| {
        files.iter().any(|file| matches!(file, NamedFile::Secret(name, _) if name == wanted))
    };
    if let Some(unknown) = include.iter().find(|wanted| !is_known(wanted)) {
        return Err(ManifestError::NoSuchSecret(unknown.clone()));
    }
    let mut warnings = Vec::new();
    for file in files {
        let (path, mode) = match file {
            NamedFile::Public(path) => (path, 0o644),
            NamedFile::Secret(name, path) if include.contains(name) => {
                warnings.push(format!(
                    "{name} is in the manifest in clear: everybody who may read MachineConfigs can read it"
                ));
                (path, 0o600)
            }
            NamedFile::Secret(..) => continue,
        };
        let shown = path.display().to_string();
        if !["/etc/", "/var/"].iter().any(|writable| shown.starts_with(writable)) {
            return Err(ManifestError::ReadOnlyPlace(path.clone()));
        }
        ignition.files.push(payload::ignition(&shown, mode, &payload::read(path)?));
    }
    Ok(warnings)
}

fn add_socket_units(ignition: &mut Ignition) {
    ignition.units.extend([
        json!({ "name": "kms-plugin.socket", "enabled": true, "contents": SOCKET }),
        json!({ "name": "kms-plugin-rebind.path", "contents": REBIND_PATH }),
        json!({ "name": "kms-plugin-rebind.service", "contents": REBIND_SERVICE }),
    ]);
}

/// The service from our own units. Another unit, which runs before it, copies the executables out of the image.
fn add_fetched_service(image: &str, mut dropins: Vec<Value>, ignition: &mut Ignition) {
    let digest: String = image.rsplit("sha256:").next().unwrap_or_default().chars().take(16).collect();
    let directory = format!("{BINARIES}/{digest}");
    let binary = format!("{directory}/kms-plugin");
    let at = format!(
        "# The binary that kms-plugin-fetch.service has copied.\n[Unit]\nWants=kms-plugin-fetch.service\n\
         After=kms-plugin-fetch.service\n[Service]\nExecStart=\nExecStart={binary} serve\nExecReload=\n\
         ExecReload={binary} reload\n"
    );
    dropins.push(json!({ "name": "20-binary.conf", "contents": at }));
    dropins.push(json!({ "name": "30-dynamic-user.conf", "contents": DYNAMIC_USER }));
    ignition.units.push(json!({
        "name": "kms-plugin.service", "enabled": true, "contents": SERVICE, "dropins": dropins,
    }));
    add_socket_units(ignition);
    // Runs once for each image: later boots find the binary, and need no registry.
    let unit = format!(
        "[Unit]\nDescription=Copy kms-plugin out of its image\nConditionPathExists=!{binary}\n\
         {PULLS}StartLimitIntervalSec=0\n\n\
         [Service]\nType=oneshot\nTimeoutStartSec=120s\nRestart=on-failure\nRestartSec=10s\n{PROXY}\
         ExecStart=/usr/bin/podman pull --authfile /var/lib/kubelet/config.json {image}\n\
         # A copy that was interrupted before.\n\
         ExecStart=/usr/bin/rm -rf {directory} {directory}.new\n\
         ExecStart=/usr/bin/mkdir -p {directory}.new\n\
         ExecStart=-/usr/bin/podman rm --force kms-plugin-fetch\n\
         ExecStart=/usr/bin/podman create --name kms-plugin-fetch {image}\n\
         ExecStart=/usr/bin/podman cp kms-plugin-fetch:/kms-plugin {directory}.new/\n\
         # The daemon serves without its tools: an image from before they were separate must not stop the node.\n\
         ExecStart=-/usr/bin/podman cp kms-plugin-fetch:/kms-plugin-tools {directory}.new/\n\
         ExecStart=-/usr/bin/podman rm --force kms-plugin-fetch\n\
         ExecStart=/usr/bin/chmod -R 0755 {directory}.new\n\
         # Without a type that may be executed, SELinux refuses to start them.\n\
         ExecStart=-/usr/bin/chcon -R -t bin_t {directory}.new\n\
         # A power cut after the mv must not leave an empty file that counts as copied.\n\
         ExecStart=/usr/bin/sync {directory}.new/kms-plugin\n\
         ExecStart=-/usr/bin/sync {directory}.new/kms-plugin-tools\n\
         ExecStart=/usr/bin/mv -T {directory}.new {directory}\n"
    );
    ignition.units.push(json!({ "name": FETCH, "contents": unit }));
    ignition.units.push(json!({ "name": APPLY, "contents": apply_unit::fetch(&binary) }));
}

/// A container that systemd runs from the image, on the socket of kms-plugin.socket. `local` are the directories of the
/// sockets that it connects to.
fn quadlet(image: &str, directory: &Path, local: &[PathBuf]) -> String {
    let directory = directory.display();
    let local: Vec<_> = local.iter().map(|path| path.display()).collect();
    let mounts: String = local.iter().map(|path| format!("Volume={path}:{path}:ro\n")).collect();
    // podman does not start a container whose volume is missing.
    let made: String = local.iter().map(|path| format!("ExecStartPre=/usr/bin/mkdir -p {path}\n")).collect();
    format!(
        "# podman makes kms-plugin.service of this (podman-systemd.unit(5)).\n\
         [Unit]\nDescription=Kubernetes KMS v2 plugin for HashiCorp Vault and OpenBao\n\
         Requires=kms-plugin.socket\nAfter=kms-plugin.socket network.target\nBefore=kubelet.service\n\
         {PULLS}StartLimitIntervalSec=0\n\n\
         [Container]\nContainerName=kms-plugin\nImage={image}\nExec=serve\nNetwork=host\nNotify=true\n\
         ReadOnly=true\nDropCapability=all\nNoNewPrivileges=true\nRunInit=false\n\
         # Confined, a container may not reach the host's sockets.\nSecurityLabelDisable=true\n\
         Volume=/etc/kms-plugin:/etc/kms-plugin:ro\nVolume={directory}:{directory}\n\
         Volume=/run/kms-plugin:/run/kms-plugin\n{mounts}\
         PodmanArgs=--authfile=/var/lib/kubelet/config.json --log-driver=passthrough --http-proxy=false\n\n\
         [Service]\n{PROXY}{made}Restart=always\nRestartSec=1s\nTimeoutStartSec=180s\nTimeoutStopSec=30s\n\
         RuntimeDirectory=kms-plugin\nRuntimeDirectoryPreserve=yes\nOOMScoreAdjust=-900\nLimitCORE=0\n\
         ExecReload=/usr/bin/podman exec kms-plugin /kms-plugin reload\n\n\
         [Install]\nWantedBy=multi-user.target\n"
    )
}

/// The operating system's image with the package in it. Its build enables the service.
fn operating_system(pool: &str, package: &str, push_spec: &str, push_secret: &str) -> Value {
    let containerfile = format!(
        "FROM configs AS final\nRUN dnf install -y {package} && dnf clean all && \\\n    \
         chmod 0755 /etc/kms-plugin /etc/kms-plugin/config.d && systemctl enable kms-plugin.service && \\\n    \
         ostree container commit\n"
    );
    json!({
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "MachineOSConfig",
        "metadata": { "name": pool },
        "spec": {
            "machineConfigPool": { "name": pool },
            "imageBuilder": { "imageBuilderType": "Job" },
            "renderedImagePushSpec": push_spec,
            "renderedImagePushSecret": { "name": push_secret },
            "containerFile": [{ "containerfileArch": "NoArch", "content": containerfile }],
        },
    })
}
