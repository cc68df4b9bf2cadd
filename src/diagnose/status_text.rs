//! The status of an agent as text for people: first the phase, then a line for each part.

use std::time::Duration;

use anstyle::{AnsiColor, Style};

use crate::admin::api_types::{KmsStatus, LocalKeks, Phase, Service, Status};
use crate::clock::unix_seconds;
use crate::diagnose::PRIMARY;
use crate::display::ago;
use crate::health::ReasonKind;

/// The text, with colours.
pub(crate) fn status_text(status: &Status) -> String {
    let (phase, colour) = match status.phase {
        Phase::Ready => ("ready", AnsiColor::Green),
        Phase::Failed => ("failed", AnsiColor::Red),
        Phase::Starting => ("starting", AnsiColor::Yellow),
        Phase::Degraded => ("degraded", AnsiColor::Yellow),
        Phase::Stopping => ("stopping", AnsiColor::Yellow),
        Phase::Unknown => ("in a phase that this version does not know", AnsiColor::Yellow),
    };
    let style = Style::new().fg_color(Some(colour.into())).bold();
    let since = ago(Duration::from_secs(status.for_seconds));
    let mut text =
        format!("{style}●{style:#} {style}{phase}{style:#} for {since}, kms-plugin {}\n", status.version);
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<13} {value}\n"));
    if let Some(module) = &status.fips {
        line("fips 140-3", module.clone());
    }
    let known = status.reason.as_ref().and_then(|reason| reason.known_kind());
    if let Some(reason) = &status.reason {
        line("reason", format!("{} ({})", reason.text, reason.kind));
        line("remedy", reason.remedy.clone());
    }
    // Without any configuration, the reason says the same.
    let problem = status.config.problem.as_ref().filter(|_| known != Some(ReasonKind::Configuration));
    if let Some(problem) = problem {
        line("configuration", format!("the one on disk is not in use: {problem}"));
    }
    let announced = match status.kms_status {
        KmsStatus::Ok => "ok",
        KmsStatus::Unhealthy => "answers with the reason; the API server's /readyz fails",
        KmsStatus::Refused => "answers with an error; the API server's writes stop",
        KmsStatus::Unknown if known == Some(ReasonKind::Configuration) => {
            "answers with an error; there is no configuration"
        }
        KmsStatus::Unknown => "answers with an error; the key is not known yet",
    };
    line("kms status", announced.to_owned());
    if let Some(left) = status.grace_left_seconds {
        line("grace left", ago(Duration::from_secs(left)));
    }
    if let Some(since) = status.last_contact_seconds_ago {
        line("last contact", format!("{} ago", ago(Duration::from_secs(since))));
    }
    if status.unreadable_key_ids > 0 {
        let count = status.unreadable_key_ids;
        line("unreadable", format!("data of {count} key_id(s) could not be unwrapped: kms-plugin check"));
    }
    if let Some(keks) = &status.offline {
        local_kek_lines(keks, status.phase == Phase::Ready, &mut line);
    }
    for service in std::iter::once(&status.primary).chain(&status.decrypt_only) {
        service_lines(service, &mut line);
    }
    text
}

/// The readiness for an outage, and the local KEKs.
fn local_kek_lines(keks: &LocalKeks, ready: bool, line: &mut impl FnMut(&str, String)) {
    line("offline", keks.line.clone());
    if !ready {
        line("offline left", ago(Duration::from_secs(keks.left_seconds)));
    }
    if let Some(created) = keks.made {
        line("local KEK", format!("{} old, used for {} seeds", age(created), keks.uses));
    }
    let stored = if keks.kept { "stored by systemd" } else { "lost when the agent restarts" };
    line(
        "keys",
        format!(
            "local KEKs: {}; seeds without a local KEK: {}; still to unwrap: {}; {stored}",
            keks.keks, keks.seeds, keks.missing
        ),
    );
    if !keks.locked {
        line("warning", "the keys can be swapped out to a disk: kms-plugin check".to_owned());
    }
}

/// The key, the token and the addresses of one key service.
fn service_lines(service: &Service, line: &mut impl FnMut(&str, String)) {
    if service.name != PRIMARY {
        line("decrypt only", service.name.clone());
    }
    match &service.key {
        Some(key) => {
            line("key", format!("{} version {}, {} old", key.scope, key.version, age(key.created)));
            line("key_id", key.key_id.clone());
            key.warnings.iter().for_each(|warning| line("warning", warning.text.clone()));
        }
        None => line("key", "not known yet".into()),
    }
    if let Some(token) = &service.token {
        let ends = token.expires.map_or("does not expire".to_owned(), |expires| {
            let left = u64::try_from(expires.saturating_sub(unix_seconds())).unwrap_or_default();
            format!("expires in {}", ago(Duration::from_secs(left)))
        });
        let renewable = if token.renewable { "renewable" } else { "not renewable" };
        let state = if token.held { format!("{ends}, {renewable}") } else { "none".to_owned() };
        match token.method.as_str() {
            "none" => line("token", "none: the proxy at the address logs in, and adds its own".to_owned()),
            method => line("token", format!("by {method}: {state}; {} logins", token.logins)),
        }
        token.problem.iter().for_each(|problem| line("problem", problem.clone()));
    }
    service.problem.iter().for_each(|problem| line("problem", problem.clone()));
    service.ignored_namespace.iter().for_each(|warning| line("warning", warning.text.clone()));
    for address in &service.addresses {
        let state = match address.reachable {
            Some(true) if address.preferred => "answers, used first".to_owned(),
            Some(true) => "answers".to_owned(),
            Some(false) => format!("does not answer: {}", address.reason.as_deref().unwrap_or_default()),
            None => "not tried yet".to_owned(),
        };
        line("address", format!("{} {state}", address.address));
    }
}

/// The time since a moment in seconds since 1970.
fn age(since: i64) -> String {
    ago(Duration::from_secs(u64::try_from(unix_seconds().saturating_sub(since)).unwrap_or_default()))
}
