//! The permissions of the token: its capabilities where it may read them, otherwise the result of using it.

use std::collections::BTreeMap;

use super::finding::{Check, Finding};
use crate::key_service::{ErrorKind, KeyScope, KeyServiceError};

const NOT_ALLOWED: &str = "the token's policy does not allow it";

/// The permissions for one key.
pub(crate) struct Policy {
    /// The path of Encrypt, on which `create` is dangerous.
    encrypt: String,
    /// The key of the running agent, where it is another key.
    other: Option<KeyScope>,
    /// The capabilities for each path, where the token may read them.
    capabilities: Option<BTreeMap<String, Vec<String>>>,
}

impl Policy {
    pub(crate) fn new(encrypt: String, other: Option<KeyScope>) -> Self {
        Self { encrypt, other, capabilities: None }
    }

    /// Stores the answer of `sys/capabilities-self`; `None` when the token may not read it.
    pub(crate) fn set_capabilities(&mut self, capabilities: Option<BTreeMap<String, Vec<String>>>) {
        self.capabilities = capabilities;
    }

    /// Whether the token may read its capabilities.
    pub(crate) fn is_known(&self) -> bool {
        self.capabilities.is_some()
    }

    /// Compares the capabilities for `path` with the `needed` ones. `used` is the error of a call to the path.
    pub(crate) fn check(&self, path: &str, needed: &[&str], used: Option<&KeyServiceError>) -> Finding {
        let granted = self.capabilities.as_ref().and_then(|capabilities| capabilities.get(path));
        let needs = needed.first().copied().unwrap_or_default();
        let fail = |seen: String| {
            let remedy = self.remedy(&format!(
                "grant {needs} on {path} in a policy that the role's token_policies name; kms-plugin render policy prints the whole policy (vault policy write replaces the old one)"
            ));
            let why =
                "Vault refuses every such call of the agent; is this the right key (vault.transit.key)?";
            Finding::fail(Check::Policy, path, seen, why, remedy)
        };
        // The server named another reason than the policy, or another was found.
        let elsewhere =
            |kind| matches!(kind, ErrorKind::WrongSetting | ErrorKind::LoginDenied | ErrorKind::LockedOut);
        if let Some(error) = used.filter(|error| elsewhere(error.kind())) {
            return Finding::skipped(Check::Policy, path, format!("the policy is not the reason: {error}"));
        }
        if let Some(error) = used.filter(|error| error.remedy().contains("allowed_parameters")) {
            let why = "Vault refuses every such call of the agent";
            return Finding::fail(Check::Policy, path, error.to_string(), why, error.remedy());
        }
        let refused = used.is_some_and(|error| error.kind() == ErrorKind::Denied);
        // Vault checks the policy first: any other answer means that the policy allows the call.
        let unanswered = used.filter(|error| error.kind().is_outage());
        match granted {
            _ if refused => fail(format!("{NOT_ALLOWED} ({needs})")),
            Some(words) if words.iter().any(|word| word == "root") => {
                Finding::ok(Check::Policy, path, "everything (a root token)")
            }
            Some(words) if !words.iter().any(|word| word == needs) => {
                fail(format!("{NOT_ALLOWED} ({needs}): it has {}", words.join(", ")))
            }
            Some(words) if words.iter().any(|word| word == "create") && path == self.encrypt => {
                Finding::warn(
                    Check::Policy,
                    path,
                    words.join(", "),
                    "with `create`, the first Encrypt after a deletion of the key silently creates a new key: the old data is lost",
                    format!("grant only update on {path}"),
                )
            }
            Some(words) if words.iter().any(|word| !needed.contains(&word.as_str())) => Finding::warn(
                Check::Policy,
                path,
                words.join(", "),
                "an attacker who steals this node's token may do that, too",
                format!("grant only {needs} on {path}: kms-plugin render policy"),
            ),
            Some(words) => Finding::ok(Check::Policy, path, words.join(", ")),
            None => match unanswered {
                Some(error) => Finding::skipped(Check::Policy, path, error.to_string()),
                None => Finding::ok(
                    Check::Policy,
                    path,
                    format!("{needs} works; the token may not read sys/capabilities-self"),
                ),
            },
        }
    }

    /// When the running agent uses another key, the mistake is probably in this configuration, not in Vault.
    pub(crate) fn remedy(&self, remedy: &str) -> String {
        match &self.other {
            Some(other) => format!(
                "the running agent uses {other}: if that is the right key, correct vault.transit (and vault.namespace) in this configuration; if not, {remedy}"
            ),
            None => remedy.to_owned(),
        }
    }
}
