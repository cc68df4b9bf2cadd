//! `render policy`: what each login must be allowed, and nothing else.

use crate::cli::exit::Failure;
use crate::cli::flags::ConfigFlags;
use crate::config::settings::KeyServiceSettings;
use crate::config::vault::Vault;

/// The least policy for Vault or OpenBao, in HCL
#[derive(Debug, clap::Args)]
#[command(
    after_help = "vault policy write kms-plugin - < the output, in the namespace that it names. Where decrypt_only \
                        entries log in for themselves, each login has a part of its own: a policy each. Never \
                        grant `create` on the encrypt path: a deleted key would be made anew in silence."
)]
pub(crate) struct PolicyArgs {
    /// Also allow the token to renew itself: then a lease is renewed instead of a login made
    #[arg(long)]
    renew: bool,
    #[command(flatten)]
    flags: ConfigFlags,
}

/// One login and the keys that it uses.
struct Login<'a> {
    vault: &'a Vault,
    /// Each key with the name of its entry; the first of the first login is the one that wraps.
    keys: Vec<(&'a str, &'a Vault)>,
}

pub(crate) fn render(args: &PolicyArgs) -> Result<String, Failure> {
    let (_, settings) = super::configuration(&args.flags)?;
    let mut logins: Vec<Login<'_>> = Vec::new();
    let services = std::iter::once(("", &settings.primary))
        .chain(settings.decrypt_only.iter().map(|(name, service)| (name.as_str(), service)));
    for (name, service) in services {
        let KeyServiceSettings::Vault(vault) = service else { continue };
        match logins.first_mut().filter(|_| vault.shares_login) {
            Some(first) => first.keys.push((name, vault)),
            None => logins.push(Login { vault, keys: vec![(name, vault)] }),
        }
    }
    let parts: Vec<String> = logins.iter().map(|login| login.policy(args.renew)).collect();
    Ok(parts.join("\n"))
}

impl Login<'_> {
    fn policy(&self, renew: bool) -> String {
        let addresses: Vec<_> =
            self.vault.addresses.iter().map(|url| url.as_str().trim_end_matches('/')).collect();
        let place = named(&self.vault.auth_namespace);
        let mut text = format!("# A policy of the login at {}, in {place}\n", addresses.join(", "));
        for (name, vault) in &self.keys {
            let what = match *name {
                "" => "The key that wraps".to_owned(),
                name => format!("decrypt_only {name:?}"),
            };
            text.push_str(&format!("# {what}, in {}\n", named(&vault.namespace)));
            let Some(inside) = inside(&self.vault.auth_namespace, &vault.namespace) else {
                text.push_str("# The namespace of the login does not contain that one: Vault will refuse.\n");
                continue;
            };
            let (mount, key) = (&vault.transit.mount, &vault.transit.key);
            if name.is_empty() {
                text.push_str(&rule(&format!("{inside}{mount}/encrypt/{key}"), "update"));
            }
            text.push_str(&rule(&format!("{inside}{mount}/decrypt/{key}"), "update"));
            text.push_str(&rule(&format!("{inside}{mount}/keys/{key}"), "read"));
        }
        text.push_str("# The token itself\n");
        text.push_str(&rule("auth/token/lookup-self", "read"));
        if renew {
            text.push_str(&rule("auth/token/renew-self", "update"));
        }
        text
    }
}

fn named(namespace: &str) -> &str {
    if namespace.is_empty() { "the root namespace" } else { namespace }
}

/// How a policy in the namespace `outer` names what is in `inner`: policies name what is below their own
/// namespace, and nothing else.
fn inside(outer: &str, inner: &str) -> Option<String> {
    if outer == inner {
        return Some(String::new());
    }
    let rest = if outer.is_empty() { Some(inner) } else { inner.strip_prefix(outer)?.strip_prefix('/') };
    rest.map(|rest| format!("{rest}/"))
}

fn rule(path: &str, capability: &str) -> String {
    format!("path {path:?} {{\n  capabilities = [{capability:?}]\n}}\n")
}

#[cfg(test)]
mod tests {
    use super::inside;

    #[test]
    fn a_policy_names_what_is_below_its_own_namespace() {
        let prefix = |outer, inner| inside(outer, inner);
        assert_eq!(prefix("", ""), Some(String::new()));
        assert_eq!(prefix("a", "a"), Some(String::new()));
        assert_eq!(prefix("", "a/b"), Some("a/b/".to_owned()));
        assert_eq!(prefix("a", "a/b"), Some("b/".to_owned()));
        assert_eq!(prefix("a", "ab"), None);
        assert_eq!(prefix("a", ""), None);
    }
}
