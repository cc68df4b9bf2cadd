//! What a cluster, a Vault or systemd needs, made from a node's configuration: manifests, policies, drop-ins.
//!
//! Each file makes one product from plain options and the settings. Must not parse flags, print, or know exit codes.

mod apply_unit;
mod credentials;
mod disruption_policy;
pub(crate) mod encryption_configuration;
pub(crate) mod error;
mod ignition;
pub(crate) mod machineconfig;
mod payload;
pub(crate) mod policy;
mod pull;
pub(crate) mod rewrite;
pub(crate) mod static_pod;
pub(crate) mod unit_dropin;

use error::ManifestError;
use serde_json::{Value, json};

/// A comment as lines of YAML.
fn comment_lines(comment: &str) -> String {
    comment.lines().map(|line| format!("{}\n", format!("# {line}").trim_end())).collect()
}

/// YAML documents, each with its comment before it.
fn documents(parts: &[(String, Value)]) -> Result<String, ManifestError> {
    let parts =
        parts.iter().map(|(comment, value)| Ok(comment_lines(comment) + &yaml_serde::to_string(value)?));
    Ok(parts.collect::<Result<Vec<_>, yaml_serde::Error>>()?.join("---\n"))
}

/// The `securityContext` of a container that uses sockets and files of root on the host: root, and nothing more.
fn root_without_capabilities() -> Value {
    json!({
        "runAsUser": 0,
        "runAsGroup": 0,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
        // SELinux lets no confined container use a socket or a directory of the host.
        "seLinuxOptions": { "type": "spc_t" },
    })
}

/// Checks that an image is named by its digest. An image that runs beside the API server's keys must not change under
/// its name.
///
/// # Errors
/// What is wrong with the name.
pub(crate) fn check_image(image: &str) -> Result<(), &'static str> {
    let digest = image.rsplit_once("@sha256:").map(|(_, digest)| digest);
    match digest {
        Some(digest) if digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(()),
        _ => Err("name the image by its digest: registry/name@sha256:… (64 digits)"),
    }
}
