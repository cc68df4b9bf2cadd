//! `render`: what a cluster, a Vault or systemd needs to be told, made from the node's configuration.
//!
//! One file a product. Secrets are referred to by their place; only `--include-secret` puts one into a manifest.

use super::exit::Failure;
use super::report;
use crate::manifests::{encryption_config, machineconfig, policy, static_pod, unit_dropin};

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
