//! What a cluster, a Vault or systemd needs, made from the node's configuration: manifests, policies, drop-ins.

pub(crate) mod credentials;
pub(crate) mod encryption_config;
pub(crate) mod machineconfig;
pub(crate) mod payload;
pub(crate) mod policy;
pub(crate) mod static_pod;
pub(crate) mod unit_dropin;

use serde_json::Value;

use crate::cli::exit::{Exit, Failure};
use crate::cli::flags::ConfigFlags;
use crate::config::{Merged, Settings};

/// The configuration as merged, and what it means.
fn configuration(flags: &ConfigFlags) -> Result<(Merged, Settings), Failure> {
    let merged = flags.merge()?;
    let settings = Settings::from_merged(&merged).map_err(|error| Failure::new(Exit::Config, error))?;
    Ok((merged, settings))
}

/// YAML documents, each with a comment in front.
fn documents(parts: &[(String, Value)]) -> Result<String, Failure> {
    let mut text = String::new();
    for (number, (comment, value)) in parts.iter().enumerate() {
        if number > 0 {
            text.push_str("---\n");
        }
        for line in comment.lines() {
            text.push_str(format!("# {line}").trim_end());
            text.push('\n');
        }
        let yaml = yaml_serde::to_string(value).map_err(|error| Failure::new(Exit::Internal, error))?;
        text.push_str(&yaml);
    }
    Ok(text)
}

/// An image by its digest: what runs next to the API server's keys must not change under its name.
fn image_by_digest(image: &str) -> Result<String, String> {
    let digest = image.rsplit_once("@sha256:").map(|(_, digest)| digest);
    match digest {
        Some(digest) if digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Ok(image.to_owned())
        }
        _ => Err("name the image by its digest: registry/name@sha256:… (64 digits)".to_owned()),
    }
}
