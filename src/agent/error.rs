//! Why an agent cannot start, why it ended, and why a reload failed.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::display::with_causes;
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
    /// The embedded keyring cannot be read or created.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The admin address cannot be bound.
    #[error(
        "the admin address {address} cannot be bound: {cause}; is another agent running? Choose another address (serve: server.admin, dev: --admin)"
    )]
    Admin { address: SocketAddr, cause: io::Error },
    /// The runtime directory cannot be used.
    #[error(
        "the runtime directory {path} cannot be used: {cause}; under systemd, RuntimeDirectory=kms-plugin creates it"
    )]
    RuntimeDir { path: PathBuf, cause: io::Error },
    /// A file that the settings name cannot be read, because its file system hangs.
    #[error(
        "the files that the configuration names cannot be read: {0}; findmnt and ls show which mount hangs"
    )]
    Files(#[source] io::Error),
    #[error("signals cannot be received: {0}")]
    Signals(#[source] io::Error),
    /// A task ended that must not.
    #[error("the task {task} ended: {cause}")]
    Task { task: &'static str, cause: TaskError },
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
    #[error("it returned without an error")]
    Returned,
    #[error("it panicked: {0}")]
    Panicked(String),
    /// The server that takes the accepted connections has ended.
    #[error(transparent)]
    Acceptor(#[from] AcceptorEnded),
    /// It was restarted within the process too often.
    #[error("it failed {failures} times within {window:?}, last: {last}")]
    TooManyFailures { failures: usize, window: Duration, last: Box<TaskError> },
    /// The core, whose publisher updates the state, has ended.
    #[error("the task that publishes the state has ended")]
    NoPublisher,
    #[error("no task is left")]
    NoTaskLeft,
}

/// Why a reload failed. The old settings stay in use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    /// The configuration cannot be read, or is wrong.
    #[error("{}", with_causes(&**.0))]
    Configuration(Box<dyn std::error::Error + Send + Sync>),
    /// The key services cannot be set up.
    #[error("{}", with_causes(.0))]
    KeyServices(AgentError),
    /// No round trip worked in time with the new settings.
    #[error("the new configuration did not work within {within:?}: {state}")]
    NotVerified {
        within: Duration,
        /// The state of the agent with them, in one line.
        state: String,
    },
    #[error("the agent is stopping")]
    Stopping,
}

impl ReloadError {
    /// What is wrong, without general words before it: for lines that have little room.
    pub(super) fn cause(&self) -> String {
        match self {
            Self::KeyServices(AgentError::Tls(cause)) => with_causes(cause),
            other => other.to_string(),
        }
    }

    /// The error with its causes, a line for each problem.
    pub(super) fn lines(&self) -> Vec<String> {
        let Self::Configuration(error) = self else { return vec![self.to_string()] };
        let first: &dyn std::error::Error = &**error;
        let causes = std::iter::successors(Some(first), |cause| cause.source());
        causes.flat_map(|cause| cause.to_string().lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }
}
