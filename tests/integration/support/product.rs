//! The servers with Vault's API that the tests run on, and in what they differ.

use std::path::PathBuf;

use super::tools;

/// A server with Vault's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    OpenBao,
    /// HashiCorp Vault, Community edition.
    Vault,
}

impl Product {
    /// The one that `KMS_PLUGIN_TESTS_SERVER` names: `openbao`, also where it is not set, or `vault`.
    pub fn chosen() -> Self {
        match std::env::var("KMS_PLUGIN_TESTS_SERVER").as_deref() {
            Err(_) | Ok("openbao") => Self::OpenBao,
            Ok("vault") => Self::Vault,
            Ok(other) => panic!("KMS_PLUGIN_TESTS_SERVER is openbao or vault, not {other:?}"),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::OpenBao => "OpenBao",
            Self::Vault => "HashiCorp Vault",
        }
    }

    /// Its program.
    pub fn program(self) -> PathBuf {
        match self {
            Self::OpenBao => tools::server("bao"),
            Self::Vault => tools::server("vault"),
        }
    }

    /// What its configuration has beside storage and listener. `audit_log` is where OpenBao writes each request;
    /// Vault ignores that here, and wants a request for it ([`Self::audit_by_request`]).
    pub fn settings(self, audit_log: &str) -> String {
        match self {
            Self::OpenBao => {
                format!("audit \"file\" \"log\" {{ options {{ file_path = {audit_log:?} }} }}\n")
            }
            // From 1.20 on it does not start with raft unless this is said.
            Self::Vault => "disable_mlock = true\n".to_owned(),
        }
    }

    /// Whether an audit device is made by a request, once the server is unsealed.
    pub fn audit_by_request(self) -> bool {
        self == Self::Vault
    }
}
