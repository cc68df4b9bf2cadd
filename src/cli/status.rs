//! `status`: what the running agent knows of itself, once or again and again.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use serde_json::Value;

use super::client::AgentArgs;
use super::exit::{Exit, Failure};
use super::report::{self, Output};
use super::runtime;
use crate::clock::unix_seconds;
use crate::snapshot::ago;

/// Time for the agent's answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Clears the terminal, and goes to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Show what the running agent knows of itself
#[derive(Debug, clap::Args)]
#[command(after_help = "Asks the agent on its private socket: root only. Nothing secret is in it.\n\
                        Exit codes: 0 ready, 1 starting, degraded or stopping, 2 failed, 69 no agent answers.")]
pub(super) struct StatusArgs {
    /// Show it again and again, until interrupted
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "2s",
          value_parser = humantime::parse_duration)]
    watch: Option<Duration>,
    /// How to write it; with --watch, JSON is one line a time
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    agent: AgentArgs,
}

pub(super) fn run(args: &StatusArgs) -> Result<Exit, Failure> {
    if args.watch.is_some_and(|every| every < Duration::from_millis(100)) {
        return Err(Failure::message(Exit::Usage, "--watch must be 100ms or longer"));
    }
    runtime()?.block_on(async {
        let Some(every) = args.watch else {
            let status = read(args).await?;
            match args.output {
                Output::Text => report::styled(&text(&status))?,
                Output::Json => report::line(&serde_json::to_string_pretty(&status).unwrap_or_default())?,
            }
            return Ok(verdict(&status));
        };
        loop {
            // An agent that restarts is gone for a moment: watching goes on.
            let shown = match (read(args).await, args.output) {
                (Ok(status), Output::Text) => text(&status),
                (Ok(status), Output::Json) => format!("{status}\n"),
                (Err(failure), Output::Text) => format!("{failure}\n"),
                (Err(failure), Output::Json) => {
                    format!("{}\n", serde_json::json!({ "error": failure.to_string() }))
                }
            };
            let clear = if args.output == Output::Text && report::width().is_some() { CLEAR } else { "" };
            if !report::streamed(&format!("{clear}{shown}"))? {
                return Ok(Exit::Ok);
            }
            tokio::time::sleep(every).await;
        }
    })
}

async fn read(args: &StatusArgs) -> Result<Value, Failure> {
    let text = args.agent.status(TIMEOUT).await?;
    serde_json::from_str(&text).map_err(|error| Failure::new(Exit::Unavailable, error))
}

fn verdict(status: &Value) -> Exit {
    match status.get("phase").and_then(Value::as_str) {
        Some("ready") => Exit::Ok,
        Some("failed") => Exit::Failed,
        _ => Exit::Warned,
    }
}

/// The status for people: a line of state, and one line each for what is behind it.
pub(super) fn text(status: &Value) -> String {
    let at = |pointer: &str| status.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let seconds = |pointer: &str| status.pointer(pointer).and_then(Value::as_u64).map(Duration::from_secs);
    let phase = at("/phase");
    let colour = match phase {
        "ready" => AnsiColor::Green,
        "failed" => AnsiColor::Red,
        _ => AnsiColor::Yellow,
    };
    let style = Style::new().fg_color(Some(colour.into())).bold();
    let lasted = ago(seconds("/for_seconds").unwrap_or_default());
    let mut text =
        format!("{style}●{style:#} {style}{phase}{style:#} for {lasted}, kms-plugin {}\n", at("/version"));
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<13} {value}\n"));
    if status.get("reason").is_some_and(|reason| !reason.is_null()) {
        line("reason", format!("{} ({})", at("/reason/text"), at("/reason/kind")));
        line("remedy", at("/reason/remedy").to_owned());
    }
    let announced = match at("/kms_status") {
        "ok" => "ok",
        "unhealthy" => "the reason: the API server's /readyz fails",
        "refused" => "an error: the API server's writes end",
        _ => "an error: nothing is known yet",
    };
    line("kms status", announced.to_owned());
    if let Some(left) = seconds("/grace_left_seconds") {
        line("grace left", ago(left));
    }
    if let Some(since) = seconds("/last_contact_seconds_ago") {
        line("last contact", format!("{} ago", ago(since)));
    }
    if let Some(count @ 1..) = status.get("unreadable_key_ids").and_then(Value::as_u64) {
        line(
            "unreadable",
            format!("data of {count} key_id(s) was asked for and could not be unwrapped: kms-plugin check"),
        );
    }
    if let Some(offline) = status.get("offline").filter(|offline| !offline.is_null()) {
        offline_lines(offline, phase == "ready", &mut line);
    }
    let others = status.get("decrypt_only").and_then(Value::as_array);
    for service in status.get("primary").into_iter().chain(others.into_iter().flatten()) {
        service_lines(service, &mut line);
    }
    text
}

/// How ready the agent is for an outage, and the keys that it has for one.
fn offline_lines(offline: &Value, ready: bool, line: &mut impl FnMut(&str, String)) {
    let number = |name: &str| offline.get(name).and_then(Value::as_u64).unwrap_or_default();
    let flag = |name: &str| offline.get(name).and_then(Value::as_bool).unwrap_or_default();
    line("offline", offline.get("line").and_then(Value::as_str).unwrap_or_default().to_owned());
    if !ready {
        line("offline left", ago(Duration::from_secs(number("left_seconds"))));
    }
    if let Some(made) = offline.get("made").and_then(Value::as_i64) {
        let age = u64::try_from(unix_seconds() - made).unwrap_or_default();
        let age = ago(Duration::from_secs(age));
        line("local KEK", format!("{age} old, {} seeds wrapped", number("uses")));
    }
    let mut kept = format!(
        "{} local KEKs, {} seeds that are under none, {} still to unwrap",
        number("keks"),
        number("seeds"),
        number("missing")
    );
    kept.push_str(if flag("kept") { "; kept by systemd" } else { "; lost when the agent restarts" });
    line("keys kept", kept);
    if !flag("locked") {
        line("warning", "the keys can be swapped out to a disk: kms-plugin check".to_owned());
    }
}

/// The key, the token and the addresses of one key service.
fn service_lines(service: &Value, line: &mut impl FnMut(&str, String)) {
    let at = |pointer: &str| service.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let number = |pointer: &str| service.pointer(pointer).and_then(Value::as_i64);
    let name = at("/name");
    if name != "primary" {
        line("decrypt only", name.to_owned());
    }
    if let Some(version) = number("/key/version") {
        let [namespace, mount, key] = ["/key/scope/namespace", "/key/scope/mount", "/key/scope/key"].map(at);
        let namespace = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let age =
            u64::try_from(unix_seconds() - number("/key/created").unwrap_or_default()).unwrap_or_default();
        let made = ago(Duration::from_secs(age));
        line("key", format!("{namespace}{mount}/keys/{key} version {version}, {made} old"));
        line("key_id", at("/key/key_id").to_owned());
    } else {
        line("key", "not known yet".into());
    }
    for warning in service.pointer("/key/warnings").and_then(Value::as_array).into_iter().flatten() {
        line("warning", warning.get("text").and_then(Value::as_str).unwrap_or_default().to_owned());
    }
    if let Some(token) = service.get("token").filter(|token| !token.is_null()) {
        let flag = |name: &str| token.get(name).and_then(Value::as_bool).unwrap_or_default();
        let ends = number("/token/expires").map_or("does not end".to_owned(), |expires| {
            let left = u64::try_from(expires - unix_seconds()).unwrap_or_default();
            format!("ends in {}", ago(Duration::from_secs(left)))
        });
        let renewable = if flag("renewable") { "renewable" } else { "not renewable" };
        let state = if flag("held") { format!("{ends}, {renewable}") } else { "none".to_owned() };
        line(
            "token",
            format!(
                "by {}: {state}; {} logins",
                at("/token/method"),
                number("/token/logins").unwrap_or_default()
            ),
        );
        if !at("/token/problem").is_empty() {
            line("problem", at("/token/problem").to_owned());
        }
    }
    if !at("/problem").is_empty() {
        line("problem", at("/problem").to_owned());
    }
    for address in service.get("addresses").and_then(Value::as_array).into_iter().flatten() {
        let flag = |name: &str| address.get(name).and_then(Value::as_bool);
        let state = match (flag("reachable"), address.get("reason").and_then(Value::as_str)) {
            (Some(true), _) if flag("preferred") == Some(true) => "answers, used first".to_owned(),
            (Some(true), _) => "answers".to_owned(),
            (Some(false), why) => format!("does not answer: {}", why.unwrap_or_default()),
            (None, _) => "not asked yet".to_owned(),
        };
        let name = address.get("address").and_then(Value::as_str).unwrap_or_default();
        line("address", format!("{name} {state}"));
    }
}
