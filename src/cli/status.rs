//! `status`: prints the state of the running agent, once or repeatedly.

use std::time::Duration;

use serde::Deserialize as _;
use serde_json::Value;

use super::agent_args::{AgentArgs, failure};
use super::block_on;
use super::exit::{Exit, Failure};
use super::report::{self, Output};
use crate::admin::ClientError;
use crate::admin::api_types::{Phase, Status};
use crate::diagnose::status_text::status_text;
use crate::display::with_causes;

/// Time for the agent's answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Clears the terminal and moves the cursor to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Show the state of the running agent
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads the state from the agent's admin socket: root only. The output has no secrets.\n\
                        Exit codes: 0 ready, 1 starting, degraded or stopping, 2 failed, 69 no agent answers."
)]
pub(super) struct StatusArgs {
    /// Show it repeatedly, until interrupted
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "2s",
          value_parser = humantime::parse_duration)]
    watch: Option<Duration>,
    /// Format of the output; with --watch, JSON is one line each time
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    agent: AgentArgs,
}

pub(super) fn run(args: &StatusArgs) -> Result<Exit, Failure> {
    if args.watch.is_some_and(|every| every < Duration::from_millis(100)) {
        return Err(Failure::message(Exit::Usage, "--watch must be 100ms or longer"));
    }
    block_on(async {
        let Some(every) = args.watch else {
            let unavailable = |error| failure(error, Exit::Unavailable);
            let status = read(args).await.map_err(unavailable)?;
            match args.output {
                Output::Text => report::styled(&status_text(&status.typed))?,
                Output::Json => {
                    report::line(&serde_json::to_string_pretty(&status.json).unwrap_or_default())?
                }
            }
            return Ok(exit_code(status.typed.phase));
        };
        loop {
            // An agent that restarts does not answer for a moment: continue.
            let shown = match (read(args).await, args.output) {
                (Ok(status), Output::Text) => status_text(&status.typed),
                (Ok(status), Output::Json) => format!("{}\n", status.json),
                (Err(error), Output::Text) => format!("{}\n", with_causes(&error)),
                (Err(error), Output::Json) => {
                    format!("{}\n", serde_json::json!({ "error": with_causes(&error) }))
                }
            };
            let clear = if args.output == Output::Text && report::width().is_some() { CLEAR } else { "" };
            if !report::streamed(&format!("{clear}{shown}"))? {
                return Ok(Exit::Ok);
            }
            tokio::time::sleep(every).await;
        }
    })?
}

/// A status: the JSON of the agent for programs, and what this version understands of it.
struct Answer {
    json: Value,
    typed: Status,
}

async fn read(args: &StatusArgs) -> Result<Answer, ClientError> {
    let json = args.agent.client(TIMEOUT).status_json().await?;
    let typed = Status::deserialize(&json).map_err(ClientError::NotUnderstood)?;
    Ok(Answer { json, typed })
}

fn exit_code(phase: Phase) -> Exit {
    match phase {
        Phase::Ready => Exit::Ok,
        Phase::Failed => Exit::Failed,
        _ => Exit::Warned,
    }
}
