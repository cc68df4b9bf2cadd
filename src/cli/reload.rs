//! `reload`: has a running agent read its configuration again, and waits for the outcome.

use std::time::Duration;

use super::client::AgentArgs;
use super::exit::{Exit, Failure};
use super::{report, runtime};

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
    let line = runtime()?.block_on(args.agent.post("/reload", TIMEOUT, Exit::Config))?;
    // In use, and yet of no use: a key that was replaced stays so.
    match line.starts_with("failed") {
        true => Err(Failure::message(Exit::Unavailable, format!("reloaded, but: {line}"))),
        false => report::line(&format!("reloaded: {line}")),
    }
}
