//! The smallest policy for each login, in HCL.

use crate::config::Settings;
use crate::config::endpoint::Endpoint;
use crate::config::settings::KeyServiceSettings;
use crate::config::vault::Vault;

struct Login<'a> {
    vault: &'a Vault,
    /// Each key with the name of its `decrypt_only` entry; empty for the key that wraps.
    keys: Vec<(&'a str, &'a Vault)>,
}

/// A policy for each login. With `renew`, its token may renew itself.
pub(crate) fn render(settings: &Settings, renew: bool) -> String {
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
    let parts: Vec<String> = logins.iter().map(|login| login.policy(renew)).collect();
    parts.join("\n")
}

impl Login<'_> {
    fn policy(&self, renew: bool) -> String {
        let addresses: Vec<_> = self.vault.addresses.iter().map(Endpoint::name).collect();
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

/// The prefix that a policy in the namespace `outer` needs for paths in `inner`. `None` when `inner` is not below
/// `outer`: a policy cannot reach it.
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
    fn a_policy_reaches_only_below_its_own_namespace() {
        let prefix = |outer, inner| inside(outer, inner);
        assert_eq!(prefix("", ""), Some(String::new()));
        assert_eq!(prefix("a", "a"), Some(String::new()));
        assert_eq!(prefix("", "a/b"), Some("a/b/".to_owned()));
        assert_eq!(prefix("a", "a/b"), Some("b/".to_owned()));
        assert_eq!(prefix("a", "ab"), None);
        assert_eq!(prefix("a", ""), None);
    }
}
