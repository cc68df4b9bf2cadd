//! `reload`: has a running agent read its configuration again, and waits for the outcome.

use std::time::Duration;

use super::agent_args::{AgentArgs, failure};
use super::exit::{Exit, Failure};
use super::{report, runtime};
use crate::admin::types::{CommandDone, Phase};

/// Time for the agent's answer: a new configuration has 15 s to prove itself.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Have a running agent read its configuration, credentials and TLS files again
#[derive(Debug, clap::Args)]
#[command(
    after_help = "This is what `systemctl reload kms-plugin` runs. It succeeds when the new configuration \
                        is in use, proven by a round trip with the key. When it does not work, the old one stays \
                        in use, and this fails with the reason. What systemd passes with LoadCredential= is read \
                        once at a start: after a change of it, use `systemctl restart kms-plugin`."
)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    agent: AgentArgs,
}

pub(super) fn run(args: &ReloadArgs) -> Result<(), Failure> {
    let reloaded = runtime()?.block_on(args.agent.client(TIMEOUT).reload());
    let CommandDone { phase, line } = reloaded.map_err(|error| failure(error, Exit::Config))?;
    match phase {
        // The configuration is in use, and the agent still does not work: a replaced key stays replaced.
        Phase::Failed => Err(Failure::message(Exit::Unavailable, format!("reloaded, but: {line}"))),
        _ => report::line(&format!("reloaded: {line}")),
    }
}
