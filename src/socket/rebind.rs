//! Binds the socket again when its file was deleted or replaced.
//!
//! Only root can bind a socket that systemd has passed. There the units `kms-plugin-rebind.path` and
//! `kms-plugin-rebind.service` do it.

use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use super::{BoundSocket, SocketError};

/// Who has bound the socket.
pub(super) enum Socket {
    /// This process: it binds the socket again when it is gone.
    Bound(BoundSocket),
    /// systemd, at this path: only root can bind it again.
    Passed(PathBuf),
}

/// The result of a check.
pub(super) enum Place {
    /// The socket is in its place.
    Kept,
    /// The socket was gone, and is bound again. With its new listener.
    Rebound(UnixListener),
    /// The socket is gone.
    Missing,
}

impl Socket {
    /// Checks whether the socket is in its place, and binds it again if it is not. `reported`: the log says already
    /// that it is missing.
    pub(super) fn check(&mut self, path: &Path, reported: bool) -> Place {
        match self {
            Self::Bound(bound) if bound.in_place() => Place::Kept,
            Self::Bound(_) => {
                match BoundSocket::bind(path).and_then(|bound| Ok((listen(&bound, path)?, bound))) {
                    Ok((listener, bound)) => {
                        tracing::warn!(
                            "the socket {} was deleted or replaced; it is bound again",
                            path.display()
                        );
                        *self = Self::Bound(bound);
                        Place::Rebound(listener)
                    }
                    Err(error) => {
                        if !reported {
                            tracing::error!(
                                "the socket is gone and cannot be bound again; retrying: {error}"
                            );
                        }
                        Place::Missing
                    }
                }
            }
            Self::Passed(path) if path.exists() => Place::Kept,
            Self::Passed(path) => {
                if !reported {
                    tracing::error!(
                        "the socket {} is gone; systemd created it, and only root can create it again: systemctl restart kms-plugin.socket",
                        path.display()
                    );
                }
                Place::Missing
            }
        }
    }
}

pub(super) fn listen(bound: &BoundSocket, path: &Path) -> Result<UnixListener, SocketError> {
    let listener = bound.listener().and_then(UnixListener::from_std);
    listener.map_err(|cause| SocketError::Io { path: path.to_path_buf(), action: "listened on", cause })
}
