//! Why a manifest, a policy or a drop-in cannot be made.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("the configuration has no secret file called {0}")]
    NoSuchSecret(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("this configuration names no secret file and no credential")]
    NoSecrets,
    #[error(
        "server.socket is {0}, but kms-plugin.socket listens on {1}; remove server.socket from the configuration"
    )]
    OtherSocket(PathBuf, &'static str),
    #[error(
        "the service's user could not read vault.auth.jwt_file; use --way quadlet, or another login method"
    )]
    JwtFile,
    #[error("{0} is not below /etc/kms-plugin, which the pod mounts; move it there")]
    NotMounted(PathBuf),
    #[error("{0} cannot be written on a node: only files below /etc and /var can")]
    ReadOnlyPlace(PathBuf),
    #[error("{file} has more than {max} bytes; the MachineConfigs of a pool have 1.5 MiB together")]
    TooLarge { file: PathBuf, max: u64 },
    #[error(
        "the configuration names {file}, which cannot be read here; run this command on a machine that has the file"
    )]
    Unreadable {
        file: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error(transparent)]
    Yaml(#[from] yaml_serde::Error),
}

/// What is wrong when the output cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// The options of the command.
    Usage,
    Config,
    /// A file that is not on this machine.
    Unavailable,
    Internal,
}

impl ManifestError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchSecret(_) => ErrorKind::Usage,
            Self::Unreadable { .. } => ErrorKind::Unavailable,
            Self::Yaml(_) => ErrorKind::Internal,
            Self::Config(_)
            | Self::NoSecrets
            | Self::OtherSocket(..)
            | Self::JwtFile
            | Self::NotMounted(_)
            | Self::ReadOnlyPlace(_)
            | Self::TooLarge { .. } => ErrorKind::Config,
        }
    }
}
