//! Errors of a socket.

use std::io;
use std::path::{Path, PathBuf};

/// Why a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Another process serves it.
    #[error(
        "{0}: another process serves this socket. Find it: fuser {0}; stop it (under systemd: systemctl stop kms-plugin.socket kms-plugin.service), or change server.socket"
    )]
    InUse(PathBuf),
    /// The path exists and is not a socket.
    #[error(
        "{path}: a {kind} is at the path of the socket. The agent does not remove it: move it away, or change server.socket"
    )]
    NotASocket { path: PathBuf, kind: &'static str },
    #[error("{0}: the directory of the socket does not exist. Create it: mkdir -m 0700 {0}")]
    NoDirectory(PathBuf),
    /// Every user could replace the socket.
    #[error(
        "{0}: every user can replace files in this directory, also the socket. Change its mode: chmod o-w {0}"
    )]
    OpenDirectory(PathBuf),
    /// A system call failed.
    #[error("{path}: the socket cannot be {action}: {cause}")]
    Io {
        path: PathBuf,
        /// A participle, for "the socket cannot be …".
        action: &'static str,
        cause: io::Error,
    },
}

impl SocketError {
    /// systemd passed a socket that cannot be used.
    pub(crate) fn not_adopted(path: &Path, cause: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), action: "taken over", cause }
    }
}
