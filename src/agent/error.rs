//! Why an agent cannot start, why it ended, and why a reload failed.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::embedded::KeyringError;
use crate::socket::{AcceptorEnded, SocketError};
use crate::vault::TlsError;

/// Why the agent cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// The socket cannot be bound or taken over.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// TLS to the key service cannot be set up.
    #[error("TLS to the key service cannot be set up; check ca_file, client_cert_file and client_key_file")]
    Tls(#[from] TlsError),
    /// The embedded keyring cannot be read or made.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The admin address cannot be bound.
    #[error(
        "the admin address {address} cannot be bound: {cause}; is another agent running? Choose another address (serve: server.admin, dev: --admin)"
    )]
    Admin {
        /// The address.
        address: SocketAddr,
        /// Why not.
        cause: io::Error,
    },
    /// The runtime directory cannot be used.
    #[error(
        "the runtime directory {path} cannot be used: {cause}; under systemd, RuntimeDirectory=kms-plugin makes it"
    )]
    RuntimeDir {
        /// The directory.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// The system does not deliver signals to us.
    #[error("signals cannot be received: {0}")]
    Signals(#[source] io::Error),
    /// A task ended that must not.
    #[error("the task {task} ended: {cause}")]
    Task {
        /// Which.
        task: &'static str,
        /// Why.
        cause: TaskError,
    },
    /// Stopping took longer than allowed.
    #[error("calls in flight did not end within {0:?}; they were cut off")]
    Drain(Duration),
    /// A second signal came.
    #[error("a second signal came while draining; calls in flight were cut off")]
    Aborted,
}

/// Why a task ended that must not end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    /// It returned without an error.
    #[error("it returned without an error")]
    Returned,
    /// It panicked.
    #[error("it panicked: {0}")]
    Panicked(String),
    /// The gRPC server failed.
    #[error("the gRPC server failed: {0}")]
    Server(#[from] tonic::transport::Error),
    /// The server that an accept loop works for has ended.
    #[error(transparent)]
    Acceptor(#[from] AcceptorEnded),
    /// It was restarted in place too often.
    #[error("it failed {failures} times within {window:?}, last: {last}")]
    TooManyFailures {
        /// How often.
        failures: usize,
        /// In which time.
        window: Duration,
        /// The last failure.
        last: Box<TaskError>,
    },
    /// Nobody publishes the state any more.
    #[error("nobody publishes the state any more")]
    NoPublisher,
    /// No task is left.
    #[error("no task is left")]
    NoTaskLeft,
}

/// Why a reload failed. The old settings stay in use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    /// The configuration cannot be read, or is wrong.
    #[error("{}", chain(&**.0))]
    Configuration(Box<dyn std::error::Error + Send + Sync>),
    /// The key services cannot be set up.
    #[error("{}", chain(.0))]
    KeyServices(AgentError),
    /// The new settings did not work in time.
    #[error("the new configuration did not work within {within:?}: {state}")]
    NotProven {
        /// The time that they had.
        within: Duration,
        /// The state of the agent with them, in one line.
        state: String,
    },
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}")).replace('\n', "; ")
}
