//! `reload`: reloads the configuration of a running agent, and waits for the result.

use std::time::Duration;

use super::agent_args::{AgentArgs, failure};
use super::exit::{Exit, Failure};
use super::{block_on, report};
use crate::admin::api_types::{CommandDone, Phase};
use crate::admin::timing::RELOAD_TIMEOUT;

/// Time for the agent's answer. The agent tests a new configuration for at most 15 s.
const TIMEOUT: Duration = Duration::from_secs(30);
// The agent must answer first, because its answer has the reason of a failure.
const _: () = assert!(TIMEOUT.as_millis() > RELOAD_TIMEOUT.as_millis());

/// Reload the configuration, credentials and TLS files of a running agent
#[derive(Debug, clap::Args)]
#[command(
    after_help = "`systemctl reload kms-plugin` runs this command. It succeeds when the new configuration is in \
                        use, after a round trip with the key. If the new configuration does not work, the old one \
                        stays in use, and this command fails with the reason. systemd passes credentials \
                        (LoadCredential=) only at a start: after a change, use `systemctl restart kms-plugin`."
)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    agent: AgentArgs,
}

pub(super) fn run(args: &ReloadArgs) -> Result<(), Failure> {
    let reloaded = block_on(args.agent.client(TIMEOUT).reload())?;
    let CommandDone { phase, line } = reloaded.map_err(|error| failure(error, Exit::Config))?;
    match phase {
        // The configuration is in use, but a reload does not accept a replaced key, for example.
        Phase::Failed => Err(Failure::message(Exit::Unavailable, format!("reloaded, but: {line}"))),
        _ => report::line(&format!("reloaded: {line}")),
    }
}
