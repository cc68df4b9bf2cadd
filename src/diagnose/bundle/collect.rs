//! The texts of the bundle: from the agent, from a check, and from programs of the system. They may still hold
//! secrets.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::BundleOptions;
use crate::admin::api_types::Status;
use crate::admin::{Client, ClientError};
use crate::config::{DEFAULT_RUNTIME_DIR, Settings};
use crate::diagnose::check::{self, Report, report_text};
use crate::diagnose::status_text::status_text;
use crate::display::with_causes;
use crate::process;
use crate::systemd::units::UNITS;

/// Time for an answer of the agent.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The texts, each with its name.
pub(super) async fn parts(
    options: &BundleOptions,
    mut progress: impl FnMut(&str),
) -> Vec<(&'static str, String)> {
    let settings = options.check.configuration.settings().ok();
    let mut parts = vec![("config.json", options.configuration.clone())];
    progress("the agent's state");
    let runtime_dir = settings.as_ref().map(|settings| settings.server.runtime_dir.clone());
    let agent = Client::new(&runtime_dir.unwrap_or(PathBuf::from(DEFAULT_RUNTIME_DIR)), TIMEOUT);
    let failed = |error: ClientError| pretty(&json!({ "error": with_causes(&error) }));
    let status = agent.status_json().await;
    let typed = status.as_ref().ok().and_then(|status| Status::deserialize(status).ok());
    parts.push(("status.json", status.map_or_else(failed, |status| pretty(&status))));
    parts.push(("healthz.txt", agent.healthz().await.unwrap_or_else(failed)));
    parts.push(("metrics.txt", agent.metrics().await.unwrap_or_else(failed)));
    if let Some(status) = &typed {
        parts.push(("status.txt", anstream::adapter::strip_str(&status_text(status)).to_string()));
    }
    progress("the result of kms-plugin check");
    parts.extend(checked(options, typed).await);
    progress("the journal and the units");
    parts.push(("journal.txt", journal(options.lines).await));
    parts.push(("units.txt", units().await));
    progress("the system");
    parts.push(("system.txt", system(settings.as_ref()).await));
    parts
}

/// The result of a check, as a whole and by subject.
async fn checked(options: &BundleOptions, status: Option<Status>) -> [(&'static str, String); 5] {
    let mut report = Report::new(|_| ());
    check::run(&options.check, &mut report).await;
    let findings = report.json();
    let network = only(&findings, &["dns", "tcp", "tls", "server", "cluster", "round-trip", "quota"]);
    let policy = only(&findings, &["login", "token", "policy"]);
    let key = status.and_then(|status| status.primary.key);
    let key = json!({ "agent": key, "check": only(&findings, &["key"]) });
    [
        ("check.txt", report_text(&report)),
        ("network.json", pretty(&network)),
        ("policy.json", pretty(&policy)),
        ("key.json", pretty(&key)),
        ("check.json", pretty(&findings)),
    ]
}

fn only(findings: &Value, checks: &[&str]) -> Value {
    let named = |finding: &&Value| {
        finding.get("check").and_then(Value::as_str).is_some_and(|check| checks.contains(&check))
    };
    let all = findings.get("findings").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    all.iter().filter(named).cloned().collect()
}

async fn journal(lines: u32) -> String {
    let lines = lines.to_string();
    let mut arguments = vec!["--no-pager", "--output=short-iso-precise", "--lines", &lines];
    UNITS.iter().for_each(|unit| arguments.extend(["--unit", *unit]));
    output("journalctl", &arguments).await
}

async fn units() -> String {
    let mut text = String::new();
    for verb in ["status", "cat", "show"] {
        let mut arguments = vec!["--no-pager", "--full", verb];
        arguments.extend(UNITS);
        text.push_str(&format!("== systemctl {verb}\n{}\n", output("systemctl", &arguments).await));
    }
    text
}

/// The environment of the agent: versions, clock, sockets, network.
async fn system(settings: Option<&Settings>) -> String {
    let socket_directory = settings.map_or("/run/kmsplugin".into(), |settings| {
        settings.server.socket.parent().map_or_else(String::new, |parent| parent.display().to_string())
    });
    let mut text = format!("kms-plugin {}\n", env!("CARGO_PKG_VERSION"));
    for (program, arguments) in [
        ("uname", vec!["-a"]),
        ("cat", vec!["/etc/os-release"]),
        ("systemctl", vec!["--version"]),
        ("date", vec!["--utc", "--iso-8601=seconds"]),
        ("timedatectl", vec!["show"]),
        ("cat", vec!["/etc/resolv.conf"]),
        ("ip", vec!["-brief", "address"]),
        ("ip", vec!["route"]),
        ("getenforce", vec![]),
        ("ls", vec!["-laZ", &*socket_directory, DEFAULT_RUNTIME_DIR, "/etc/kms-plugin"]),
        ("ss", vec!["-xlp"]),
    ] {
        let arguments_text = arguments.join(" ");
        text.push_str(&format!("\n== {program} {arguments_text}\n{}", output(program, &arguments).await));
    }
    text
}

/// The output of a program, with its error when it failed.
async fn output(program: &str, arguments: &[&str]) -> String {
    match process::run(program, arguments).await {
        Ok(output) if output.status.success() => output.stdout,
        Ok(output) => format!("{}{program}: {}: {}", output.stdout, output.status, output.stderr),
        Err(error) => format!("{error}\n"),
    }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}
