//! `render`: writes manifests, policies and drop-ins for the node's configuration.
//!
//! One type of arguments for each product. The products refer to secrets by their file; only `--include-secret` puts
//! a secret itself into a manifest.

use clap::ValueEnum;

use super::exit::{Exit, Failure, error_line};
use super::flags::ConfigFlags;
use super::report;
use crate::config::{Merged, Settings};
use crate::kubernetes::{duration, encryption_configuration_template as template};
use crate::manifests::encryption_configuration::{self, EncryptionConfig};
use crate::manifests::error::{ErrorKind, ManifestError};
use crate::manifests::machineconfig::{self, Delivery, MachineConfig, Part};
use crate::manifests::rewrite::{self, Job, Rewrite};
use crate::manifests::static_pod::{self, StaticPod};
use crate::manifests::{check_image, policy, unit_dropin};

/// Write manifests, policies and drop-ins for this configuration
#[derive(Debug, clap::Args)]
pub(super) struct RenderArgs {
    #[command(subcommand)]
    product: Product,
}

#[derive(Debug, clap::Subcommand)]
enum Product {
    /// MachineConfig for a pool of OpenShift nodes, or the policy that avoids reboots
    Machineconfig(MachineConfigArgs),
    /// Static pod for a control plane node
    StaticPod(StaticPodArgs),
    /// EncryptionConfiguration for kube-apiserver
    EncryptionConfig(EncryptionConfigArgs),
    /// The smallest policy for Vault or OpenBao, in HCL
    Policy(PolicyArgs),
    /// Drop-in for kms-plugin.service that passes the secrets as systemd credentials
    UnitDropin(UnitDropinArgs),
    /// The least rights for `kms-plugin rewrite` in a cluster
    Rbac(RewriteRightsArgs),
    /// Job or CronJob for `kms-plugin rewrite` in a cluster
    RewriteJob(RewriteJobArgs),
}

/// MachineConfig for a pool of OpenShift nodes, or the policy that avoids reboots
#[derive(Debug, clap::Args)]
#[command(after_help = "Apply it with: kms-plugin render machineconfig … | oc apply -f -\n\n\
                  When the first rollout is finished on every node, apply the policy: the same command with --policy. \
                  Never before it: the operator would reload a service that is not there, and degrade the node. To \
                  remove kms-plugin, first remove its entries from the policy, then the MachineConfig.\n\n\
                  It holds no secret, unless --include-secret names one: before the rollout, put the secret files on \
                  the nodes yourself, owned by root, mode 0600.")]
struct MachineConfigArgs {
    /// How the binary comes to the nodes
    #[arg(long, value_enum)]
    way: Way,
    /// Pool of nodes; `master` is the control plane
    #[arg(long, default_value = "master")]
    pool: String,
    /// For quadlet and fetch: the image by its digest, registry/name@sha256:…
    #[arg(long, value_parser = image, required_if_eq_any([("way", "quadlet"), ("way", "fetch")]))]
    image: Option<String>,
    /// For image: the package, as `dnf install` takes it
    #[arg(long, value_name = "URL", required_if_eq("way", "image"))]
    package: Option<String>,
    /// For image: where to push the built operating system image
    #[arg(
        long,
        value_name = "SPEC",
        default_value = "image-registry.openshift-image-registry.svc:5000/openshift-machine-config-operator/os-image:latest"
    )]
    push_spec: String,
    /// For image: the Secret in openshift-machine-config-operator to push with
    #[arg(long, value_name = "NAME", default_value = "builder-push")]
    push_secret: String,
    /// Put this secret into the manifest, where everybody who may read MachineConfigs can read it. The name is the
    /// one that `render unit-dropin` shows, such as secret-id
    #[arg(long, value_name = "NAME")]
    include_secret: Vec<String>,
    /// Write only the node disruption policy. Apply it after the first rollout: then later changes need no reboot
    #[arg(long)]
    policy: bool,
    #[command(flatten)]
    flags: ConfigFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Way {
    /// The package in the operating system's image (MachineOSConfig)
    Image,
    /// The plugin's image as a container that systemd runs (Quadlet)
    Quadlet,
    /// The binary, copied out of the plugin's image
    Fetch,
}

/// Static pod for a control plane node
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Put it into the kubelet's directory of static pods (/etc/kubernetes/manifests) on each control plane \
                  node. Put the configuration and the secrets into /etc/kms-plugin, owned by root, mode 0600. To run \
                  the agent under systemd, install the package instead."
)]
struct StaticPodArgs {
    /// Image by its digest: registry/name@sha256:…
    #[arg(long, value_parser = image)]
    image: String,
    /// Namespace of the mirror pod
    #[arg(long, default_value = "kube-system")]
    namespace: String,
    #[command(flatten)]
    flags: ConfigFlags,
}

/// EncryptionConfiguration for kube-apiserver
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For kube-apiserver --encryption-provider-config. OpenShift's operators write this file themselves. \
                  In a file of your own, never change the provider's name: it is a part of every value in etcd. Another \
                  name is another provider, and both must be in the file until the data is rewritten."
)]
struct EncryptionConfigArgs {
    /// Resources to encrypt; on OpenShift also routes.route.openshift.io,
    /// oauthaccesstokens.oauth.openshift.io and oauthauthorizetokens.oauth.openshift.io
    #[arg(long, value_name = "A,B", value_delimiter = ',', default_value = "secrets,configmaps")]
    resources: Vec<String>,
    /// Name of the provider
    #[arg(long, value_name = "NAME", default_value = "kms-plugin", value_parser = provider_name)]
    provider_name: String,
    /// Longest time for one call of the API server
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = timeout)]
    timeout: String,
    /// Position of the provider for data without encryption: last while the data is being encrypted, first while
    /// encryption is being turned off, none when no such data is left
    #[arg(long, value_enum, default_value_t = Identity::Last)]
    identity: Identity,
    #[command(flatten)]
    flags: ConfigFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Identity {
    First,
    Last,
    None,
}

/// The smallest policy for Vault or OpenBao, in HCL
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Write it in the namespace that its first line names: kms-plugin render policy | vault policy write \
                  kms-plugin -\n\n\
                  When decrypt_only entries have logins of their own, the output has a policy for each login. Never \
                  grant `create` on the encrypt path: Vault would then create a deleted key again, without an error."
)]
struct PolicyArgs {
    /// Also allow the token to renew itself; without it, the agent logs in again before the token expires
    #[arg(long)]
    renew: bool,
    #[command(flatten)]
    flags: ConfigFlags,
}

/// Drop-in for kms-plugin.service that passes the secrets as systemd credentials
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Write it to /etc/systemd/system/kms-plugin.service.d/50-credentials.conf. In the configuration, \
                  replace the secret's file by `credential = \"NAME\"`. For --encrypted, encrypt each secret: \
                  systemd-creds encrypt --name=NAME FILE FILE.cred"
)]
struct UnitDropinArgs {
    /// Expect FILE.cred, encrypted by systemd-creds with the host's key or its TPM
    #[arg(long)]
    encrypted: bool,
    #[command(flatten)]
    flags: ConfigFlags,
}

/// The least rights for `kms-plugin rewrite` in a cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "Apply it with: kms-plugin render rbac | kubectl apply -f -\n\n\
                  RBAC has no right to list metadata only: list on secrets lets the account read their values, although \
                  the command never asks for them. Remove the binding when the work is done.")]
struct RewriteRightsArgs {
    /// Resources that are rewritten
    #[arg(
        long = "resource",
        visible_alias = "resources",
        value_name = "A,B",
        value_delimiter = ',',
        default_value = "secrets,configmaps"
    )]
    resources: Vec<String>,
    /// Namespace of the service account and of the Job
    #[arg(long, default_value = "kube-system")]
    namespace: String,
}

impl RewriteRightsArgs {
    fn options(&self) -> Rewrite<'_> {
        Rewrite { resources: &self.resources, namespace: &self.namespace }
    }
}

/// Job or CronJob for `kms-plugin rewrite` in a cluster
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It runs on a control plane node, where it asks the agent for the key_id, and needs the service account \
                  of `kms-plugin render rbac`. Not on OpenShift while an operator migrates: see docs/operations.md."
)]
struct RewriteJobArgs {
    #[command(flatten)]
    rights: RewriteRightsArgs,
    /// Image by its digest: registry/name@sha256:…
    #[arg(long, value_parser = image)]
    image: String,
    /// Write a CronJob with this schedule, such as '0 3 * * 0', instead of a Job
    #[arg(long, value_name = "CRON")]
    schedule: Option<String>,
    /// Directory on the node with etcd's ca.crt, healthcheck-client.crt and healthcheck-client.key (kubeadm:
    /// /etc/kubernetes/pki/etcd). Without it, the result is not proven, and the Job fails
    #[arg(long, value_name = "DIR")]
    etcd_pki: Option<String>,
}

pub(super) fn run(args: &RenderArgs) -> Result<(), Failure> {
    let text = match &args.product {
        Product::Machineconfig(args) => args.render()?,
        Product::StaticPod(args) => args.render()?,
        Product::EncryptionConfig(args) => args.render()?,
        Product::Policy(args) => policy::render(&configuration(&args.flags)?.1, args.renew),
        Product::UnitDropin(args) => {
            unit_dropin::render(&configuration(&args.flags)?.0, args.encrypted).map_err(failure)?
        }
        Product::Rbac(args) => rewrite::rights(&args.options()).map_err(failure)?,
        Product::RewriteJob(args) => {
            let job = Job {
                image: &args.image,
                schedule: args.schedule.as_deref(),
                etcd_pki: args.etcd_pki.as_deref(),
            };
            rewrite::job(&args.rights.options(), &job).map_err(failure)?
        }
    };
    report::line(text.trim_end())
}

impl MachineConfigArgs {
    fn render(&self) -> Result<String, Failure> {
        let (merged, settings) = configuration(&self.flags)?;
        // clap requires the image, or the package, that the way needs.
        let image = self.image.as_deref().unwrap_or_default();
        let delivery = match self.way {
            Way::Image => Delivery::Image {
                package: self.package.as_deref().unwrap_or_default(),
                push_spec: &self.push_spec,
                push_secret: &self.push_secret,
            },
            Way::Quadlet => Delivery::Quadlet { image },
            Way::Fetch => Delivery::Fetch { image },
        };
        let part = if self.policy { Part::Policy } else { Part::MachineConfig };
        let options =
            MachineConfig { delivery, pool: &self.pool, include_secrets: &self.include_secret, part };
        let rendered = machineconfig::render(&options, &merged, &settings).map_err(failure)?;
        for warning in &rendered.warnings {
            error_line(&format!("warning: {warning}"));
        }
        Ok(rendered.text)
    }
}

impl StaticPodArgs {
    fn render(&self) -> Result<String, Failure> {
        let (_, settings) = configuration(&self.flags)?;
        let options = StaticPod { image: &self.image, namespace: &self.namespace };
        static_pod::render(&options, &settings).map_err(failure)
    }
}

impl EncryptionConfigArgs {
    fn render(&self) -> Result<String, Failure> {
        let (_, settings) = configuration(&self.flags)?;
        let identity = match self.identity {
            Identity::First => template::Identity::First,
            Identity::Last => template::Identity::Last,
            Identity::None => template::Identity::None,
        };
        let options = EncryptionConfig {
            resources: &self.resources,
            provider_name: &self.provider_name,
            timeout: &self.timeout,
            identity,
        };
        Ok(encryption_configuration::render(&options, &settings))
    }
}

/// The merged configuration and its settings.
fn configuration(flags: &ConfigFlags) -> Result<(Merged, Settings), Failure> {
    let merged = flags.merge()?;
    let settings = Settings::from_merged(&merged).map_err(|error| Failure::new(Exit::Config, error))?;
    Ok((merged, settings))
}

fn failure(error: ManifestError) -> Failure {
    let exit = match error.kind() {
        ErrorKind::Usage => Exit::Usage,
        ErrorKind::Config => Exit::Config,
        ErrorKind::Unavailable => Exit::Unavailable,
        ErrorKind::Internal => Exit::Internal,
    };
    Failure::new(exit, error)
}

fn image(text: &str) -> Result<String, &'static str> {
    check_image(text).map(|()| text.to_owned())
}

fn provider_name(text: &str) -> Result<String, &'static str> {
    template::check_provider_name(text).map(|()| text.to_owned())
}

fn timeout(text: &str) -> Result<String, &'static str> {
    match duration::parse_text(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("is not a time such as 3s or 500ms"),
    }
}
