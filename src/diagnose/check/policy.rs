//! What the token may do, by its capabilities where it may ask for them, else by the use that was made of it.

use std::collections::BTreeMap;

use super::finding::{Check, Finding};
use crate::key_service::{ErrorKind, KeyScope, KeyServiceError};

const DENIED: &str = "the token's policy does not allow it";

/// The rights to one key.
pub(crate) struct Policy {
    /// The path of Encrypt, on which `create` is a danger.
    encrypt: String,
    /// The key that the running agent uses, where that is another one.
    other: Option<KeyScope>,
    /// What the token may do at each path, where it may ask.
    allowed: Option<BTreeMap<String, Vec<String>>>,
}

impl Policy {
    pub(crate) fn new(encrypt: String, other: Option<KeyScope>) -> Self {
        Self { encrypt, other, allowed: None }
    }

    /// What `sys/capabilities-self` answered, if it may be asked.
    pub(crate) fn allow(&mut self, allowed: Option<BTreeMap<String, Vec<String>>>) {
        self.allowed = allowed;
    }

    /// Whether the token may ask for its rights.
    pub(crate) fn is_known(&self) -> bool {
        self.allowed.is_some()
    }

    /// What the token may do at `path`, by its capabilities, or by the use that was made of it.
    pub(crate) fn judge(&self, path: &str, needed: &[&str], used: Option<&KeyServiceError>) -> Finding {
        let granted = self.allowed.as_ref().and_then(|allowed| allowed.get(path));
        let needs = needed.first().copied().unwrap_or_default();
        let fail = |seen: String| {
            let remedy = self.remedy(&format!(
                "grant {needs} on {path} in the policy that the role's token_policies name; kms-plugin render policy prints the whole of it (vault policy write replaces what was there)"
            ));
            let why =
                "every such call of the agent is refused; is this the key that is meant (vault.transit.key)?";
            Finding::fail(Check::Policy, path, seen, why, remedy)
        };
        let refused = used.is_some_and(|error| error.kind() == ErrorKind::Denied);
        // Any other answer came after the policy had let the call through.
        let unanswered = used.filter(|error| error.kind().is_outage());
        match granted {
            _ if refused => fail(format!("{DENIED} ({needs})")),
            Some(words) if words.iter().any(|word| word == "root") => {
                Finding::ok(Check::Policy, path, "everything (a root token)")
            }
            Some(words) if !words.iter().any(|word| word == needs) => {
                fail(format!("{DENIED} ({needs}): it has {}", words.join(", ")))
            }
            Some(words) if words.iter().any(|word| word == "create") && path == self.encrypt => {
                Finding::warn(
                    Check::Policy,
                    path,
                    words.join(", "),
                    "with `create`, the first Encrypt after the key was deleted makes a new one in silence: the old data is lost, and nobody is told",
                    format!("grant update alone on {path}"),
                )
            }
            Some(words) if words.iter().any(|word| !needed.contains(&word.as_str())) => Finding::warn(
                Check::Policy,
                path,
                words.join(", "),
                "whoever takes this node's token may do that, too",
                format!("grant {needs} alone on {path}: kms-plugin render policy"),
            ),
            Some(words) => Finding::ok(Check::Policy, path, words.join(", ")),
            None => match unanswered {
                Some(error) => Finding::skipped(Check::Policy, path, error.to_string()),
                None => Finding::ok(
                    Check::Policy,
                    path,
                    format!("{needs}, found by use: the token may not ask sys/capabilities-self"),
                ),
            },
        }
    }

    /// A running agent with another key makes a mistake in this configuration likelier than one in Vault.
    pub(crate) fn remedy(&self, remedy: &str) -> String {
        match &self.other {
            Some(other) => format!(
                "the running agent uses {other}: if that is the key that is meant, correct vault.transit (and vault.namespace) in this configuration; if not, {remedy}"
            ),
            None => remedy.to_owned(),
        }
    }
}
