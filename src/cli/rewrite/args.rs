//! The options of `rewrite`.

use std::path::PathBuf;
use std::time::Duration;

use crate::admin::ClientError;
use crate::cli::agent_args::AgentArgs;
use crate::cli::cluster_args::ClusterArgs;
use crate::cli::exit::Failure;
use crate::cli::report::Output;
use crate::cli::verify_etcd::{EndpointArgs, storage_failure};
use crate::diagnose::verify_etcd::{self, AGENT_TIMEOUT};
use crate::etcd::key::DEFAULT_ROOT;
use crate::rewrite::fleet::Node;
use crate::rewrite::{Method, Options};

/// Where the state is, below the user's directory for state.
const STATE: &str = "kms-plugin/rewrite.json";

/// Make the API servers store every object anew under the current key: the last step of a rotation or a migration
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Writes each object without changing it: an empty patch, for which the API server encrypts the object anew if it is \
stored under an older key. Values of objects do not leave the API server. (An exception: kubectl apply copies a \
Secret's values into an annotation, and annotations are read.) Interrupt it whenever you like, and run it again: it \
goes on.

On a control plane node with kubeadm, after vault write -f transit/keys/NAME/rotate:
  cd /etc/kubernetes/pki/etcd
  kms-plugin rewrite --kubeconfig /etc/kubernetes/admin.conf --endpoint https://127.0.0.1:2379 --cacert ca.crt \\
    --cert healthcheck-client.crt --key healthcheck-client.key
Elsewhere, with the status of the nodes:
  ssh node-1 kms-plugin status --output json > node-1.json
  kms-plugin rewrite --node node-1.json --dry-run

It begins only when every API server, asked at its own address, has the new key_id, and waits for that. The result is a \
success only if etcd proves it (as kms-plugin verify-etcd does).

Exit codes: 0 rewritten and proven, or a dry run; 1 something is left; 2 not begun: the time is not right; 3 rewritten, \
not proven, because etcd was not reached; 64 usage; 69 no API server or no agent answers.")]
pub(in crate::cli) struct RewriteArgs {
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
    #[command(flatten)]
    pub(super) endpoint: EndpointArgs,
    /// The --etcd-prefix of kube-apiserver; on OpenShift /kubernetes.io
    #[arg(long, value_name = "PREFIX", default_value = DEFAULT_ROOT)]
    pub(super) etcd_prefix: String,
    /// Resources, such as secrets or routes.route.openshift.io [default: secrets,configmaps]
    #[arg(long = "resource", visible_alias = "resources", value_name = "A,B", value_delimiter = ',')]
    pub(super) resources: Vec<String>,
    /// Rewrite what this EncryptionConfiguration names, as the first provider of each rule writes it
    #[arg(long, value_name = "FILE", conflicts_with = "resources")]
    pub(super) encryption_config: Option<PathBuf>,
    /// The key_id that the API servers must have [default: that of the nodes]
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(super) key_id: Option<String>,
    /// The name of the provider in EncryptionConfiguration [default: any]
    #[arg(long, value_name = "NAME")]
    pub(super) provider: Option<String>,
    /// The output of `kms-plugin status --output json` on a control plane node; once for each. The agent of this node is
    /// asked in any case
    #[arg(long = "node", value_name = "FILE")]
    node_files: Vec<PathBuf>,
    /// How long to wait until each API server has the new key
    #[arg(long, value_name = "TIME", default_value = "4m", value_parser = humantime::parse_duration)]
    pub(super) wait: Duration,
    /// Begin although not every API server was asked whether it has the new key
    #[arg(long)]
    pub(super) unchecked: bool,
    /// Write nothing: say what would be done
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Who writes: a StorageVersionMigration where the API servers serve one, or this command
    #[arg(long, value_enum, default_value_t)]
    method: MethodArg,
    /// Most writes at the same time; fewer when the API servers are busy or slow
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = parallel)]
    pub(super) concurrency: usize,
    /// Most writes in a second; 0 is without a limit. For this command's own writes
    #[arg(long, value_name = "N", default_value_t = 200)]
    max_rate: u32,
    /// How long API servers may be away, and writes that fail are tried again
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    patience: Duration,
    /// File that remembers from which revision on the objects are done [default:
    /// ~/.local/state/kms-plugin/rewrite.json]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Remember nothing
    #[arg(long, conflicts_with = "state")]
    no_state: bool,
    /// Format of the result
    #[arg(long, value_enum, default_value_t)]
    pub(super) output: Output,
    #[command(flatten)]
    agent: AgentArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum MethodArg {
    /// A StorageVersionMigration where one is served
    #[default]
    Auto,
    /// This command writes each object
    Patch,
}

fn parallel(text: &str) -> Result<usize, &'static str> {
    text.parse().ok().filter(|number| (1..=64).contains(number)).ok_or("is not a number from 1 to 64")
}

impl RewriteArgs {
    /// Whether the resources are named one by one.
    pub(super) fn named(&self) -> bool {
        !self.resources.is_empty()
    }

    pub(super) fn max_rate(&self) -> Option<u32> {
        (self.max_rate > 0).then_some(self.max_rate)
    }

    pub(super) fn options(&self) -> Options {
        Options {
            dry_run: self.dry_run,
            method: match self.method {
                MethodArg::Auto => Method::Auto,
                MethodArg::Patch => Method::Patch,
            },
            parallel: self.concurrency,
            page: 500,
            patience: self.patience,
        }
    }

    /// The agents that are known: those of the files, and the one of this node, if it answers.
    pub(super) async fn nodes(&self) -> Result<Vec<Node>, Failure> {
        nodes(&self.node_files, &self.agent).await
    }

    /// The agent of this node.
    pub(super) fn agent(&self) -> crate::admin::Client {
        self.agent.client(AGENT_TIMEOUT)
    }

    /// The state file.
    pub(super) fn state(&self) -> Option<PathBuf> {
        if self.no_state {
            return None;
        }
        let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let home = || of("HOME").map(|home| PathBuf::from(home).join(".local/state"));
        let default = || of("XDG_STATE_HOME").map(PathBuf::from).or_else(home).map(|state| state.join(STATE));
        self.state.clone().or_else(default)
    }
}

/// The status in each file, and that of the agent of this node, if one answers.
pub(in crate::cli) async fn nodes(files: &[PathBuf], agent: &AgentArgs) -> Result<Vec<Node>, Failure> {
    let mut nodes = Vec::new();
    for file in files {
        let name = file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
        nodes.push(Node { name, status: verify_etcd::peer(file).map_err(storage_failure)? });
    }
    match agent.client(AGENT_TIMEOUT).status().await {
        Ok(status) => nodes.insert(0, Node { name: "this node".into(), status }),
        // Not on a node: the files say what is to be known.
        Err(ClientError::NotConnected { .. }) => {}
        Err(error) => return Err(Failure::new(crate::cli::exit::Exit::Unavailable, error)),
    }
    Ok(nodes)
}
