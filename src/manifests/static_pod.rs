//! A static pod of the kubelet that runs the plugin beside the API server.

use std::path::Path;

use serde_json::json;

use super::ManifestError;
use super::payload::{named_files, socket_directories};
use crate::config::Settings;

pub(crate) struct StaticPod<'a> {
    /// Named by its digest ([`super::check_image`]).
    pub image: &'a str,
    /// Namespace of the mirror pod.
    pub namespace: &'a str,
}

/// # Errors
/// The settings do not fit a pod.
pub(crate) fn render(options: &StaticPod<'_>, settings: &Settings) -> Result<String, ManifestError> {
    let directory = settings.server.socket.parent().unwrap_or(Path::new("/run/kmsplugin"));
    // The pod mounts this directory only, so it must hold every file that the configuration names.
    if let Some(file) = named_files(settings).iter().find(|file| !file.path().starts_with("/etc/kms-plugin"))
    {
        return Err(ManifestError::NotMounted(file.path().to_owned()));
    }
    // On the private socket: any user of the node can connect to the admin address, and so can delay its answers.
    let runtime_dir = &settings.server.runtime_dir;
    let named = format!("--runtime-dir={}", runtime_dir.display());
    let probe = |what: &str, failures: u32| {
        json!({
            "exec": { "command": ["/kms-plugin", "probe", what, named] },
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": failures,
        })
    };
    let mut mounts = vec![
        json!({ "name": "socket", "mountPath": directory }),
        json!({ "name": "config", "mountPath": "/etc/kms-plugin", "readOnly": true }),
    ];
    let mut volumes = vec![
        json!({ "name": "socket", "hostPath": { "path": directory, "type": "DirectoryOrCreate" } }),
        json!({ "name": "config", "hostPath": { "path": "/etc/kms-plugin", "type": "Directory" } }),
    ];
    if !runtime_dir.starts_with(directory) {
        mounts.push(json!({ "name": "runtime", "mountPath": runtime_dir }));
        volumes.push(
            json!({ "name": "runtime", "hostPath": { "path": runtime_dir, "type": "DirectoryOrCreate" } }),
        );
    }
    // A directory, and not the socket: the program behind it makes the socket anew at each start.
    for (index, path) in socket_directories(settings).into_iter().enumerate() {
        let name = format!("local-{index}");
        mounts.push(json!({ "name": name, "mountPath": path, "readOnly": true }));
        volumes.push(json!({ "name": name, "hostPath": { "path": path, "type": "DirectoryOrCreate" } }));
    }
    let document = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "kms-plugin",
            "namespace": options.namespace,
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
                "image": options.image,
                "imagePullPolicy": "IfNotPresent",
                "args": ["serve", "--config=/etc/kms-plugin/config.toml"],
                "livenessProbe": probe("--live", 6),
                "readinessProbe": probe("--ready", 3),
                "resources": { "requests": { "cpu": "10m", "memory": "32Mi" } },
                "securityContext": super::root_without_capabilities(),
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        },
    });
    let comment = "Liveness is the process alone: with /healthz, an outage of Vault would restart the plugin.\n\
                   The API servers connect as root to the socket on the host; the pod runs as root without capabilities.";
    super::documents(&[(comment.into(), document)])
}
