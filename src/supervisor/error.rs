//! Why an agent cannot start, or why it ended.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::embedded::KeyringError;
use crate::socket::SocketError;
use crate::vault::TlsError;

/// Why the agent cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// TLS to the key service.
    #[error("TLS to the key service cannot be set up; check ca_file, client_cert_file and client_key_file")]
    Tls(#[from] TlsError),
    /// The embedded keyring.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The admin address.
    #[error(
        "the admin address {address} cannot be bound: {cause}; is another agent running? Choose another address (serve: server.admin, dev: --admin)"
    )]
    Admin {
        /// The address.
        address: SocketAddr,
        /// Why not.
        cause: io::Error,
    },
    /// The runtime directory.
    #[error(
        "the runtime directory {path} cannot be used: {cause}; under systemd, RuntimeDirectory=kms-plugin makes it"
    )]
    RuntimeDir {
        /// The directory.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// A task ended that must not.
    #[error("the task {task} ended: {cause}")]
    Task {
        /// Which.
        task: &'static str,
        /// Why.
        cause: String,
    },
    /// Stopping took longer than allowed.
    #[error("calls under way did not end within {0:?}; they were cut off")]
    Drain(Duration),
    /// A second signal came.
    #[error("a second signal came while draining; calls under way were cut off")]
    Aborted,
}
