//! `accept-key`: tells a running agent that a replaced or rolled-back key is meant to be used.

use std::time::Duration;

use super::agent_args::{AgentArgs, failure};
use super::exit::{Exit, Failure};
use super::{report, runtime};

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
    #[command(flatten)]
    agent: AgentArgs,
}

pub(super) fn run(args: &AcceptKeyArgs) -> Result<(), Failure> {
    let accepted = runtime()?.block_on(args.agent.client(TIMEOUT).accept_key());
    let accepted = accepted.map_err(|error| failure(error, Exit::Unavailable))?;
    report::line(&format!("accepted: {}", accepted.line))
}
