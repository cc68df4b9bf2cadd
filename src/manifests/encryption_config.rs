//! `render encryption-config`: what kube-apiserver reads.

use serde_json::{Value, json};

use crate::cli::exit::Failure;
use crate::cli::flags::ConfigFlags;

/// EncryptionConfiguration for kube-apiserver
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For kube-apiserver --encryption-provider-config. OpenShift's operators write this file \
                        themselves. The provider's name is a part of every value in etcd: never change it."
)]
pub(crate) struct EncryptionConfigArgs {
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
    /// Where data without encryption stands: last while it is being encrypted, first while encryption is
    /// being turned off, none when none is left
    #[arg(long, value_enum, default_value_t = Identity::Last)]
    identity: Identity,
    #[command(flatten)]
    flags: ConfigFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Identity {
    First,
    Last,
    None,
}

pub(crate) fn render(args: &EncryptionConfigArgs) -> Result<String, Failure> {
    let (_, settings) = super::configuration(&args.flags)?;
    let kms = json!({ "kms": {
        "apiVersion": "v2",
        "name": args.provider_name,
        "endpoint": format!("unix://{}", settings.server.socket.display()),
        "timeout": args.timeout,
    }});
    let identity = json!({ "identity": {} });
    let providers: Vec<Value> = match args.identity {
        Identity::First => vec![identity, kms],
        Identity::Last => vec![kms, identity],
        Identity::None => vec![kms],
    };
    let document = json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{ "resources": args.resources, "providers": providers }],
    });
    let comment =
        "For kube-apiserver --encryption-provider-config. The first provider writes; all of them read.";
    super::documents(&[(comment.into(), document)])
}

/// The API server's own rule: no colon, since the name ends at one in etcd.
fn provider_name(text: &str) -> Result<String, String> {
    match text {
        "" => Err("is empty".to_owned()),
        text if text.contains(':') => Err("must not contain a colon".to_owned()),
        text => Ok(text.to_owned()),
    }
}

/// A time as Go writes it, since Kubernetes reads it: a whole number and one unit.
fn timeout(text: &str) -> Result<String, String> {
    let number = ["ms", "s", "m"].iter().find_map(|unit| text.strip_suffix(unit));
    match number.and_then(|number| number.parse::<u32>().ok()) {
        Some(1..) => Ok(text.to_owned()),
        _ => Err("is not a time such as 3s or 500ms".to_owned()),
    }
}
