//! Why a socket cannot be served.

use std::io;
use std::path::{Path, PathBuf};

/// Why a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Another process answers on it.
    #[error(
        "{0}: another process serves on this socket; stop it first (under systemd: systemctl stop kms-plugin.socket kms-plugin.service; `fuser {0}` names it), or give this one another place"
    )]
    InUse(PathBuf),
    /// Something else is at the path.
    #[error(
        "{path}: a {kind} is in the place of the socket; it is left alone. Move it away, or change server.socket"
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
        /// What is there.
        kind: &'static str,
    },
    /// The directory is missing.
    #[error("{0}: the directory of the socket does not exist; make it: mkdir -m 0700 {0}")]
    NoDirectory(PathBuf),
    /// Everybody could put another socket in the place of ours.
    #[error("{0}: every user can replace files in this directory, and so the socket; chmod o-w {0}")]
    OpenDirectory(PathBuf),
    /// The system refused.
    #[error("{path}: the socket cannot be {action}: {cause}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        cause: io::Error,
    },
}

impl SocketError {
    /// A socket that systemd passed, and that cannot be used.
    pub(crate) fn not_adopted(path: &Path, cause: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), action: "taken over", cause }
    }
}
