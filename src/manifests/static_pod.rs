//! `render static-pod`: the plugin as a pod of the kubelet, beside the API server that it serves.

use std::path::Path;

use serde_json::json;

use super::payload::{self, Place};
use crate::cli::exit::{Exit, Failure};
use crate::cli::flags::ConfigFlags;

/// Static pod for a control plane node
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Put it into the kubelet's directory of static pods (/etc/kubernetes/manifests) on each \
                        control plane node, with the configuration and the secrets in /etc/kms-plugin, mode 0600 \
                        and owned by root. For the agent under systemd, install the package instead."
)]
pub(crate) struct StaticPodArgs {
    /// Image, by its digest: registry/name@sha256:…
    #[arg(long, value_parser = super::image_by_digest)]
    image: String,
    /// Namespace of the mirror pod
    #[arg(long, default_value = "kube-system")]
    namespace: String,
    #[command(flatten)]
    flags: ConfigFlags,
}

pub(crate) fn render(args: &StaticPodArgs) -> Result<String, Failure> {
    let (_, settings) = super::configuration(&args.flags)?;
    let Some(admin) = settings.server.admin.filter(|admin| admin.port() > 0) else {
        let message = "server.admin is off: the kubelet needs it for its probes";
        return Err(Failure::message(Exit::Config, message));
    };
    let directory = settings.server.socket.parent().unwrap_or(Path::new("/run/kmsplugin"));
    // Every file that the configuration names lies below what is mounted, or the pod would not see it.
    for place in payload::places(&settings) {
        let (Place::Public(path) | Place::Secret(_, path)) = &place;
        if !path.starts_with("/etc/kms-plugin") {
            let message = format!(
                "{} is not below /etc/kms-plugin, which the pod mounts; move it there",
                path.display()
            );
            return Err(Failure::message(Exit::Config, message));
        }
    }
    let probe = |path: &str, failures: u32| {
        json!({
            "httpGet": { "host": admin.ip().to_string(), "port": admin.port(), "path": path },
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": failures,
        })
    };
    let document = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "kms-plugin",
            "namespace": args.namespace,
            "labels": { "app.kubernetes.io/name": "kms-plugin", "app.kubernetes.io/component": "kms" },
        },
        "spec": {
            "hostNetwork": true,
            "dnsPolicy": "Default",
            "priorityClassName": "system-node-critical",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 30,
            "containers": [{
                "name": "kms-plugin",
                "image": args.image,
                "imagePullPolicy": "IfNotPresent",
                "args": ["serve", "--config=/etc/kms-plugin/config.toml"],
                "livenessProbe": probe("/livez", 6),
                "readinessProbe": probe("/readyz", 3),
                "resources": { "requests": { "cpu": "10m", "memory": "32Mi" } },
                "securityContext": {
                    "runAsUser": 0,
                    "runAsGroup": 0,
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                    "seccompProfile": { "type": "RuntimeDefault" },
                    // A confined container may not make a socket in a directory of the host.
                    "seLinuxOptions": { "type": "spc_t" },
                },
                "volumeMounts": [
                    { "name": "socket", "mountPath": directory },
                    { "name": "runtime", "mountPath": "/run/kms-plugin" },
                    { "name": "config", "mountPath": "/etc/kms-plugin", "readOnly": true },
                ],
            }],
            "volumes": [
                { "name": "socket", "hostPath": { "path": directory, "type": "DirectoryOrCreate" } },
                { "name": "runtime", "hostPath": { "path": "/run/kms-plugin", "type": "DirectoryOrCreate" } },
                { "name": "config", "hostPath": { "path": "/etc/kms-plugin", "type": "Directory" } },
            ],
        },
    });
    let comment = "Liveness is the process alone: never point it at /healthz, or an outage of Vault restarts the plugin.\n\
                   The API servers connect as root to the socket on the host; the pod runs as root without capabilities.";
    super::documents(&[(comment.into(), document)])
}
