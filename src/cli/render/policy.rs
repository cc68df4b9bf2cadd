//! `render policy`: what the login must be allowed, and nothing else.

use crate::cli::exit::Failure;
use crate::cli::flags::ConfigFlags;
use crate::config::settings::KeyService;

/// The least policy for Vault or OpenBao, in HCL
#[derive(Debug, clap::Args)]
#[command(
    after_help = "vault policy write kms-plugin - < the output, in the namespace that it names. Never \
                        grant `create` on the encrypt path: a deleted key would be made anew in silence."
)]
pub(super) struct PolicyArgs {
    /// Also allow the token to renew itself: then a lease is renewed instead of a login made
    #[arg(long)]
    renew: bool,
    #[command(flatten)]
    flags: ConfigFlags,
}

pub(super) fn render(args: &PolicyArgs) -> Result<String, Failure> {
    let (_, settings) = super::configuration(&args.flags)?;
    let mut text = String::new();
    let mut part = |name: &str, service: &KeyService, wraps: bool| {
        let KeyService::Vault(vault) = service else { return };
        let namespace = if vault.namespace.is_empty() { "the root namespace" } else { &vault.namespace };
        let addresses: Vec<_> =
            vault.addresses.iter().map(|url| url.as_str().trim_end_matches('/')).collect();
        text.push_str(&format!("# {name}: {}, in {namespace}\n", addresses.join(", ")));
        let (mount, key) = (&vault.transit.mount, &vault.transit.key);
        if wraps {
            text.push_str(&rule(&format!("{mount}/encrypt/{key}"), "update"));
        }
        text.push_str(&rule(&format!("{mount}/decrypt/{key}"), "update"));
        text.push_str(&rule(&format!("{mount}/keys/{key}"), "read"));
        text.push_str(&rule("auth/token/lookup-self", "read"));
        if args.renew {
            text.push_str(&rule("auth/token/renew-self", "update"));
        }
    };
    part("The key that wraps", &settings.primary, true);
    for (name, service) in &settings.decrypt_only {
        part(&format!("decrypt_only {name:?}"), service, false);
    }
    Ok(text)
}

fn rule(path: &str, capability: &str) -> String {
    format!("path {path:?} {{\n  capabilities = [{capability:?}]\n}}\n")
}
