//! `render`: what a cluster, a Vault or systemd needs to be told, made from the node's configuration.
//!
//! One file a product. Secrets are referred to by their place; only `--include-secret` puts one into a manifest.

mod credentials;
mod encryption_config;
mod machineconfig;
mod payload;
mod policy;
mod static_pod;
mod unit_dropin;

use serde_json::Value;

use super::exit::{Exit, Failure};
use super::flags::ConfigFlags;
use super::report;
use crate::config::{Merged, Settings};

/// Write manifests, policies and drop-ins for this configuration
#[derive(Debug, clap::Args)]
pub(super) struct RenderArgs {
    #[command(subcommand)]
    product: Product,
}

#[derive(Debug, clap::Subcommand)]
enum Product {
    /// MachineConfig for a pool of OpenShift nodes, with the policy that avoids reboots
    Machineconfig(machineconfig::MachineConfigArgs),
    /// Static pod for a control plane node
    StaticPod(static_pod::StaticPodArgs),
    /// EncryptionConfiguration for kube-apiserver
    EncryptionConfig(encryption_config::EncryptionConfigArgs),
    /// The least policy for Vault or OpenBao, in HCL
    Policy(policy::PolicyArgs),
    /// Drop-in for kms-plugin.service that passes the secrets as systemd credentials
    UnitDropin(unit_dropin::UnitDropinArgs),
}

pub(super) fn run(args: &RenderArgs) -> Result<(), Failure> {
    let text = match &args.product {
        Product::Machineconfig(args) => machineconfig::render(args)?,
        Product::StaticPod(args) => static_pod::render(args)?,
        Product::EncryptionConfig(args) => encryption_config::render(args)?,
        Product::Policy(args) => policy::render(args)?,
        Product::UnitDropin(args) => unit_dropin::render(args)?,
    };
    report::line(text.trim_end())
}

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
