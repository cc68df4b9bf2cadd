//! The flag for the agent that a command talks to.

use std::path::PathBuf;
use std::time::Duration;

use super::exit::{Exit, Failure};
use crate::admin::{Client, ClientError};

#[derive(Debug, clap::Args)]
pub(crate) struct AgentArgs {
    /// Runtime directory of the agent (server.runtime_dir)
    #[arg(
        long,
        value_name = "DIR",
        env = "KMS_PLUGIN_SERVER_RUNTIME_DIR",
        default_value = crate::config::DEFAULT_RUNTIME_DIR,
        value_parser = directory
    )]
    runtime_dir: PathBuf,
}

/// The directory, unless the flag or the variable is empty.
fn directory(text: &str) -> Result<PathBuf, String> {
    match text.trim() {
        "" => Err("it is empty; unset KMS_PLUGIN_SERVER_RUNTIME_DIR, or give it a value".into()),
        _ => Ok(PathBuf::from(text)),
    }
}

impl AgentArgs {
    /// A client of its admin socket. Each call has `timeout`.
    pub(crate) fn client(&self, timeout: Duration) -> Client {
        Client::new(&self.runtime_dir, timeout)
    }
}

/// A failed call as a failure of the command. `refused` is the exit code when the agent could not do the command.
pub(crate) fn failure(error: ClientError, refused: Exit) -> Failure {
    match error {
        ClientError::CommandFailed(_) => Failure::new(refused, error),
        _ => Failure::new(Exit::Unavailable, error),
    }
}
