//! Why the command line of another plugin cannot be translated.

use std::io;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CompatError {
    #[error("{0} needs a value")]
    NoValue(String),
    #[error("{flag}={value} is not a path such as transit/keys/kms-key")]
    KeyPath { flag: String, value: String },
    #[error("{flag}={value} is not a port")]
    Port { flag: String, value: String },
    #[error("{flag}={value} is neither true nor false")]
    Switch { flag: String, value: String },
    #[error("{flag}={value} is not a level of the log: debug-extended, debug, info, warn or error")]
    Level { flag: String, value: String },
    #[error("{0}=spiffe is not for the method kubernetes: a JWT-SVID is for the method jwt")]
    KubernetesSvid(String),
    #[error("{flag}={value} is neither file nor spiffe")]
    TokenSource { flag: String, value: String },
    #[error("the agent cannot keep the secret of {flag} in memory")]
    SecretFile {
        flag: String,
        #[source]
        cause: io::Error,
    },
}

impl CompatError {
    /// Whether the command line is wrong; else the system failed.
    pub(crate) fn is_usage(&self) -> bool {
        !matches!(self, Self::SecretFile { .. })
    }
}
