//! `render machineconfig`: a rollout to a pool of OpenShift nodes, in three ways to bring the binary.
//!
//! A MachineConfig writes files and units; it makes no users, directories or links, and has no room for a
//! binary (1.5 MiB for the whole pool).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use toml::Table;

use super::credentials::{Credential, by_credential};
use super::payload::{self, Place, file};
use super::unit_dropin::drop_in;
use crate::cli::exit::{Exit, Failure};
use crate::cli::flags::ConfigFlags;
use crate::cli::report;
use crate::config::Settings;

/// Ignition's version that every OpenShift 4 takes.
const IGNITION: &str = "3.2.0";
/// The unit that copies the binary out of the image.
const FETCH: &str = "kms-plugin-fetch.service";
/// Where a fetched binary lies: `/usr` is read-only.
const BINARIES: &str = "/var/lib/kms-plugin-bin";

const SERVICE: &str = include_str!("../../systemd/kms-plugin.service");
const SOCKET: &str = include_str!("../../systemd/kms-plugin.socket");
const REBIND_PATH: &str = include_str!("../../systemd/kms-plugin-rebind.path");
const REBIND_SERVICE: &str = include_str!("../../systemd/kms-plugin-rebind.service");
const DYNAMIC_USER: &str = include_str!("../../systemd/dropins/dynamic-user.conf");

/// MachineConfig for a pool of OpenShift nodes, with the policy that avoids reboots
#[derive(Debug, clap::Args)]
#[command(
    after_help = "oc apply -f - < the output. It holds no secret, unless --include-secret names one: put the \
                        secret files on the nodes yourself, as root, mode 0600, before the rollout."
)]
pub(crate) struct MachineConfigArgs {
    /// How the binary comes to the nodes
    #[arg(long, value_enum)]
    way: Way,
    /// Pool of nodes: the control plane is `master`
    #[arg(long, default_value = "master")]
    pool: String,
    /// For quadlet and fetch, the image by its digest: registry/name@sha256:…
    #[arg(long, value_parser = super::image_by_digest, required_if_eq_any([("way", "quadlet"), ("way", "fetch")]))]
    image: Option<String>,
    /// For image, where the package is: what `dnf install` takes
    #[arg(long, value_name = "URL", required_if_eq("way", "image"))]
    package: Option<String>,
    /// For image, where the built operating system image is pushed to
    #[arg(
        long,
        value_name = "SPEC",
        default_value = "image-registry.openshift-image-registry.svc:5000/openshift-machine-config-operator/os-image:latest"
    )]
    push_spec: String,
    /// For image, the Secret in openshift-machine-config-operator to push with
    #[arg(long, value_name = "NAME", default_value = "builder-push")]
    push_secret: String,
    /// Put this secret into the manifest, where everybody who may read MachineConfigs can read it: its name as
    /// in `render unit-dropin`, such as secret-id
    #[arg(long, value_name = "NAME")]
    include_secret: Vec<String>,
    #[command(flatten)]
    flags: ConfigFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Way {
    /// The package in the operating system's image (MachineOSConfig)
    Image,
    /// Our image as a container that systemd runs (Quadlet)
    Quadlet,
    /// The binary copied out of our image
    Fetch,
}

/// What Ignition is to write.
#[derive(Default)]
struct Ignition {
    files: Vec<Value>,
    units: Vec<Value>,
}

pub(crate) fn render(args: &MachineConfigArgs) -> Result<String, Failure> {
    let (merged, settings) = super::configuration(&args.flags)?;
    let mut config: Table = merged.extract().map_err(|error| Failure::new(Exit::Config, error))?;
    on_our_socket(&settings.server.socket)?;
    if args.way != Way::Quadlet {
        readable(&settings)?;
    }
    let mut ignition = Ignition::default();
    // A container reads root's files itself; a service with a user of its own gets them from systemd.
    let credentials = if args.way == Way::Quadlet { Vec::new() } else { by_credential(&mut config) };
    let text = format!("# Rendered by kms-plugin render machineconfig.\n{config}");
    ignition.files.push(file("/etc/kms-plugin/config.toml", 0o644, text.as_bytes()));
    payload_files(args, &payload::places(&settings), &mut ignition)?;
    let mut dropins = Vec::new();
    if !credentials.is_empty() {
        dropins.push(json!({ "name": "50-credentials.conf", "contents": drop_in(&credentials, false) }));
    }
    let image = args.image.as_deref().unwrap_or_default();
    match args.way {
        Way::Image => {
            // Users of an image and of a node may differ, and the operator enables no unit that it has not
            // written: a user of systemd's making, and enabled where the package is installed.
            dropins.push(json!({ "name": "30-dynamic-user.conf", "contents": DYNAMIC_USER }));
            ignition.units.push(json!({ "name": "kms-plugin.service", "dropins": dropins }));
        }
        Way::Quadlet => {
            let container = quadlet(image, settings.server.socket.parent().unwrap_or(&PathBuf::new()));
            ignition.files.push(file(
                "/etc/containers/systemd/kms-plugin.container",
                0o644,
                container.as_bytes(),
            ));
            socket_units(&mut ignition);
        }
        Way::Fetch => fetch(image, dropins, &mut ignition),
    }
    let Ignition { files, units } = &ignition;
    let name = format!("99-{}-kms-plugin", args.pool);
    let machine_config = json!({
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "MachineConfig",
        "metadata": { "name": name, "labels": { "machineconfiguration.openshift.io/role": args.pool } },
        "spec": { "config": {
            "ignition": { "version": IGNITION },
            "storage": { "files": files },
            "systemd": { "units": units },
        }},
    });
    let mut documents = vec![(
        "Files and units of kms-plugin. The first rollout drains and reboots the nodes one after the other."
            .to_owned(),
        machine_config,
    )];
    if args.way == Way::Image {
        documents.push((
            "The operating system's image with the package in it. One MachineOSConfig a pool: merge it, if there is one."
                .to_owned(),
            operating_system(args),
        ));
    }
    documents.push((
        "Later changes of our files and units need no reboot. There is one such object in a cluster: merge this into it."
            .to_owned(),
        disruption_policy(&ignition, &credentials),
    ));
    super::documents(&documents)
}

/// Our socket units know one place, and a configuration that names another would serve nobody.
fn on_our_socket(socket: &Path) -> Result<(), Failure> {
    // `/var/run` is `/run`.
    let place =
        socket.strip_prefix("/var/run").map_or_else(|_| socket.into(), |rest| Path::new("/run").join(rest));
    let listens = format!("ListenStream={}", place.display());
    if SOCKET.lines().any(|line| line == listens) {
        return Ok(());
    }
    let message = format!(
        "server.socket is {}, and kms-plugin.socket listens on /run/kmsplugin/kms.sock; leave server.socket out",
        socket.display()
    );
    Err(Failure::message(Exit::Config, message))
}

/// A JWT changes while the service runs, so it is no credential of systemd's, and the service's user may not
/// read what root alone may.
fn readable(settings: &Settings) -> Result<(), Failure> {
    let jwt = |place: &Place| matches!(place, Place::Secret(name, _) if name.starts_with("jwt"));
    if payload::places(settings).iter().any(jwt) {
        let message = "the service's own user could not read vault.auth.jwt_file; use --way quadlet, or another login method";
        return Err(Failure::message(Exit::Config, message));
    }
    Ok(())
}

/// Public files always; secrets only by name, and with a word about it.
fn payload_files(args: &MachineConfigArgs, places: &[Place], ignition: &mut Ignition) -> Result<(), Failure> {
    for wanted in &args.include_secret {
        if !places.iter().any(|place| matches!(place, Place::Secret(name, _) if name == wanted)) {
            let message = format!("the configuration has no secret file called {wanted}");
            return Err(Failure::message(Exit::Usage, message));
        }
    }
    for place in places {
        let (path, mode) = match place {
            Place::Public(path) => (path, 0o644),
            Place::Secret(name, path) if args.include_secret.contains(name) => {
                report::error_line(&format!(
                    "warning: {name} is in the manifest in clear: whoever may read MachineConfigs has it"
                ));
                (path, 0o600)
            }
            Place::Secret(..) => continue,
        };
        let shown = path.display().to_string();
        if !["/etc/", "/var/"].iter().any(|writable| shown.starts_with(writable)) {
            let message = format!("{shown} cannot be written on a node: only /etc and /var can");
            return Err(Failure::message(Exit::Config, message));
        }
        ignition.files.push(file(&shown, mode, &payload::read(path)?));
    }
    Ok(())
}

fn socket_units(ignition: &mut Ignition) {
    ignition.units.extend([
        json!({ "name": "kms-plugin.socket", "enabled": true, "contents": SOCKET }),
        json!({ "name": "kms-plugin-rebind.path", "contents": REBIND_PATH }),
        json!({ "name": "kms-plugin-rebind.service", "contents": REBIND_SERVICE }),
    ]);
}

/// The service from our own units, with a binary that a unit before it copies out of the image.
fn fetch(image: &str, mut dropins: Vec<Value>, ignition: &mut Ignition) {
    let digest: String = image.rsplit("sha256:").next().unwrap_or_default().chars().take(16).collect();
    let binary = format!("{BINARIES}/{digest}/kms-plugin");
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
    socket_units(ignition);
    // Done once an image: later boots find the binary, and need no registry.
    let unit = format!(
        "[Unit]\nDescription=Copy kms-plugin out of its image\nConditionPathExists=!{binary}\n\
         Wants=network-online.target\nAfter=network-online.target\nStartLimitIntervalSec=0\n\n\
         [Service]\nType=oneshot\nTimeoutStartSec=120s\nRestart=on-failure\nRestartSec=10s\n\
         ExecStart=/usr/bin/podman pull --authfile /var/lib/kubelet/config.json {image}\n\
         ExecStart=/usr/bin/mkdir -p {BINARIES}/{digest}\n\
         ExecStart=-/usr/bin/podman rm --force kms-plugin-fetch\n\
         ExecStart=/usr/bin/podman create --name kms-plugin-fetch {image}\n\
         ExecStart=/usr/bin/podman cp kms-plugin-fetch:/kms-plugin {binary}.new\n\
         ExecStart=-/usr/bin/podman rm --force kms-plugin-fetch\n\
         ExecStart=/usr/bin/chmod 0755 {binary}.new\n\
         # Without a type that may be executed, SELinux refuses to start it.\n\
         ExecStart=-/usr/bin/chcon -t bin_t {binary}.new\n\
         # A power cut after the mv must not leave an empty file that counts as fetched.\n\
         ExecStart=/usr/bin/sync {binary}.new\nExecStart=/usr/bin/mv {binary}.new {binary}\n"
    );
    ignition.units.push(json!({ "name": FETCH, "contents": unit }));
}

/// A container that systemd runs from our image, on the same socket.
fn quadlet(image: &str, directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "# podman makes kms-plugin.service of this (podman-systemd.unit(5)).\n\
         [Unit]\nDescription=Kubernetes KMS v2 plugin for HashiCorp Vault and OpenBao\n\
         Requires=kms-plugin.socket\nAfter=kms-plugin.socket network.target\nBefore=kubelet.service\n\
         StartLimitIntervalSec=0\n\n\
         [Container]\nContainerName=kms-plugin\nImage={image}\nExec=serve\nNetwork=host\nNotify=true\n\
         ReadOnly=true\nDropCapability=all\nNoNewPrivileges=true\nRunInit=false\n\
         # Confined, a container may not reach the host's sockets.\nSecurityLabelDisable=true\n\
         Volume=/etc/kms-plugin:/etc/kms-plugin:ro\nVolume={directory}:{directory}\n\
         Volume=/run/kms-plugin:/run/kms-plugin\n\
         PodmanArgs=--authfile=/var/lib/kubelet/config.json --log-driver=passthrough\n\n\
         [Service]\nRestart=always\nRestartSec=1s\nTimeoutStartSec=180s\nTimeoutStopSec=30s\n\
         RuntimeDirectory=kms-plugin\nRuntimeDirectoryPreserve=yes\nOOMScoreAdjust=-900\nLimitCORE=0\n\
         ExecReload=/usr/bin/podman exec kms-plugin /kms-plugin reload\n\n\
         [Install]\nWantedBy=multi-user.target\n"
    )
}

fn operating_system(args: &MachineConfigArgs) -> Value {
    let package = args.package.as_deref().unwrap_or_default();
    let containerfile = format!(
        "FROM configs AS final\nRUN dnf install -y {package} && dnf clean all && \\\n    \
         chmod 0755 /etc/kms-plugin /etc/kms-plugin/config.d && systemctl enable kms-plugin.service && \\\n    \
         ostree container commit\n"
    );
    json!({
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "MachineOSConfig",
        "metadata": { "name": args.pool },
        "spec": {
            "machineConfigPool": { "name": args.pool },
            "imageBuilder": { "imageBuilderType": "Job" },
            "renderedImagePushSpec": args.push_spec,
            "renderedImagePushSecret": { "name": args.push_secret },
            "containerFile": [{ "containerfileArch": "NoArch", "content": containerfile }],
        },
    })
}

/// What the Machine Config Operator does when one of our files or units changes, in place of a reboot.
fn disruption_policy(ignition: &Ignition, credentials: &[Credential]) -> Value {
    let restart = json!({ "type": "Restart", "restart": { "serviceName": "kms-plugin.service" } });
    let reload = json!({ "type": "Reload", "reload": { "serviceName": "kms-plugin.service" } });
    let files: Vec<Value> = ignition
        .files
        .iter()
        .filter_map(|file| file["path"].as_str())
        .map(|path| {
            // systemd hands a credential over at a start, and never again.
            let handed_over = credentials.iter().any(|one| one.file.as_deref() == Some(path));
            let actions = match path {
                _ if path.starts_with("/etc/containers/systemd/") => {
                    json!([{ "type": "DaemonReload" }, restart])
                }
                _ if handed_over => json!([restart]),
                _ => json!([reload]),
            };
            json!({ "path": path, "actions": actions })
        })
        .collect();
    let restart_of = |unit: &str| json!({ "type": "Restart", "restart": { "serviceName": unit } });
    let fetches = ignition.units.iter().any(|unit| unit["name"] == FETCH);
    let units: Vec<Value> = ignition
        .units
        .iter()
        .filter_map(|unit| unit["name"].as_str())
        .map(|name| {
            let mut actions = vec![json!({ "type": "DaemonReload" })];
            match name {
                // The socket takes the service along.
                "kms-plugin.socket" | "kms-plugin-rebind.path" => {
                    actions.push(restart_of("kms-plugin.socket"))
                }
                // Another image: a pull that fails ends it here, with the old agent still running.
                _ if fetches => actions.extend([restart_of(FETCH), restart.clone()]),
                _ => actions.push(restart.clone()),
            }
            json!({ "name": name, "actions": actions })
        })
        .collect();
    json!({
        "apiVersion": "operator.openshift.io/v1",
        "kind": "MachineConfiguration",
        "metadata": { "name": "cluster" },
        "spec": { "nodeDisruptionPolicy": { "files": files, "units": units } },
    })
}
