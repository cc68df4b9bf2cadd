//! Why there is no identity.

use std::path::Path;

use tonic::{Code, Status};

use crate::untrusted;

/// The Workload API gave no identity. Contains no part of one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct SpiffeError {
    message: String,
    /// What to do about it.
    pub(crate) remedy: String,
    /// Whether the API answered that this process has no identity: another user, unit or pod may have one.
    pub(crate) is_unknown_caller: bool,
}

impl SpiffeError {
    pub(super) fn new(message: String, remedy: impl Into<String>) -> Self {
        Self { message, remedy: remedy.into(), is_unknown_caller: false }
    }

    /// Nobody listens, or this user may not connect.
    pub(super) fn no_connection(socket: &Path, cause: &dyn std::fmt::Display) -> Self {
        let socket = socket.display();
        Self::new(
            format!("the SPIFFE Workload API at {socket} cannot be reached: {cause}"),
            format!(
                "check vault.spiffe.socket, that the SPIRE agent runs, and that this user may connect: ls -l {socket}"
            ),
        )
    }

    pub(super) fn timed_out(socket: &Path) -> Self {
        Self::new(
            format!("the SPIFFE Workload API at {} did not answer in time", socket.display()),
            "see the log of the SPIRE agent",
        )
    }

    /// The API answered with an error.
    pub(super) fn of(socket: &Path, status: &Status) -> Self {
        let text = untrusted::text(status.message());
        let socket = socket.display();
        if status.code() == Code::PermissionDenied {
            let user = nix::unistd::geteuid();
            return Self {
                message: format!(
                    "the SPIFFE Workload API at {socket} knows no identity of this process: {text}"
                ),
                remedy: format!(
                    "register it, for example by its user: spire-server entry create -spiffeID spiffe://DOMAIN/kms-plugin -parentID spiffe://DOMAIN/NODE -selector unix:uid:{user}"
                ),
                is_unknown_caller: true,
            };
        }
        Self::new(
            format!("the SPIFFE Workload API at {socket} answered {:?}: {text}", status.code()),
            "see the log of the SPIRE agent",
        )
    }
}
