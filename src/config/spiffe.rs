//! `[vault.spiffe]`: the SPIFFE Workload API, which gives the agent its identity. The methods `jwt` and `cert` use it where
//! no file is named.

use std::path::PathBuf;

use serde::Deserialize;

use super::validate::Validator;

/// Where an identity comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spiffe {
    /// The unix socket of the Workload API.
    pub socket: PathBuf,
    /// The identity, where the agent has several.
    pub id: Option<String>,
}

/// The table as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSpiffe {
    socket: Option<String>,
    pub audience: Option<String>,
    id: Option<String>,
}

impl RawSpiffe {
    /// `None` when the table has no socket, or is not valid.
    pub(super) fn validate(&self, check: &mut Validator<'_>, prefix: &str) -> Option<Spiffe> {
        let key = |name: &str| format!("{prefix}.spiffe.{name}");
        let Some(text) = &self.socket else {
            if *self != Self::default() {
                check.problem(
                    &key("socket"),
                    "the socket of the Workload API is missing, such as /run/spire/agent/public/api.sock; SPIFFE_ENDPOINT_SOCKET counts only beside the flags of another plugin",
                );
            }
            return None;
        };
        let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")).unwrap_or(text);
        if !path.starts_with('/') || path.ends_with('/') {
            check.problem(&key("socket"), format!("{text:?} is not the absolute path of a unix socket"));
        }
        if let Some(id) = self.id.as_deref().filter(|id| !is_spiffe_id(id)) {
            check.problem(&key("id"), format!("{id:?} is not a SPIFFE ID: spiffe://TRUST-DOMAIN/PATH"));
        }
        Some(Spiffe { socket: PathBuf::from(path), id: self.id.clone() })
    }
}

/// Whether it has the form of a SPIFFE ID (SPIFFE-ID, section 2).
fn is_spiffe_id(text: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && !matches!(part, "." | "..")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
    };
    text.strip_prefix("spiffe://").is_some_and(|rest| rest.split('/').all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spiffe_id_has_a_trust_domain_and_a_path() {
        for good in ["spiffe://example.org", "spiffe://example.org/kms-plugin", "spiffe://a/b/c_1"] {
            assert!(is_spiffe_id(good), "{good}");
        }
        for bad in
            ["example.org/x", "spiffe://", "spiffe://a/", "spiffe://a/../b", "https://a/b", "spiffe://a/b?c"]
        {
            assert!(!is_spiffe_id(bad), "{bad}");
        }
    }
}
