//! `accept-key`: tells a running agent to use a replaced or rolled-back key.

use std::time::Duration;

use super::agent_args::{AgentArgs, failure};
use super::exit::{Exit, Failure};
use super::{block_on, report};
use crate::admin::timing::ACCEPT_TIMEOUT;

/// Time for the agent's answer.
const TIMEOUT: Duration = Duration::from_secs(10);
// The agent must answer first, because its answer has the reason of a failure.
const _: () = assert!(TIMEOUT.as_millis() > ACCEPT_TIMEOUT.as_millis());

/// Accept that the key was replaced or rolled back
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The agent does not wrap with a key that is not the one it knows. If you restore the old key, the \
                        agent recovers by itself. If you accept the new key, you give up the data under the old \
                        key: it can no longer be read."
)]
pub(super) struct AcceptKeyArgs {
    #[command(flatten)]
    agent: AgentArgs,
}

pub(super) fn run(args: &AcceptKeyArgs) -> Result<(), Failure> {
    let accepted = block_on(args.agent.client(TIMEOUT).accept_key())?;
    let accepted = accepted.map_err(|error| failure(error, Exit::Unavailable))?;
    report::line(&format!("accepted: {}", accepted.line))
}
