//! `accept-key`: tells a running agent that a replaced or rolled-back key is meant to be used.

use std::path::PathBuf;
use std::time::Duration;

use super::exit::{Exit, Failure};
use super::{client, report, runtime};
use crate::supervisor::ADMIN_SOCKET;

/// Time for the agent's answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Accept that the key was replaced or rolled back
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The agent refuses to write under a key that is not the one it knew. Restoring the old key \
                        heals that by itself. Accepting the new one gives up whatever was written under the old \
                        one and cannot be read any more."
)]
pub(super) struct AcceptKeyArgs {
    /// Runtime directory of the agent (server.runtime_dir)
    #[arg(
        long,
        value_name = "DIR",
        env = "KMS_PLUGIN_SERVER_RUNTIME_DIR",
        default_value = "/run/kms-plugin"
    )]
    runtime_dir: PathBuf,
}

pub(super) fn run(args: &AcceptKeyArgs) -> Result<(), Failure> {
    let socket = args.runtime_dir.join(ADMIN_SOCKET);
    runtime()?.block_on(async {
        let asked = client::admin(&socket, hyper::Method::POST, "/accept-key", TIMEOUT).await;
        let (status, text) = asked.map_err(|error| {
            let message = format!(
                "no agent answers on {}; is kms-plugin.service active, are you root, and is this its server.runtime_dir (--runtime-dir)?",
                socket.display()
            );
            Failure::new(Exit::Unavailable, error.context(message))
        })?;
        match status {
            200 => report::line(&format!("accepted: {}", text.trim_end())),
            _ => Err(Failure::message(Exit::Unavailable, text.trim_end())),
        }
    })
}
