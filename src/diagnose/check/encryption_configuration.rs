//! The API server's EncryptionConfiguration: does the API server load it, call this agent, and write with it?

use std::path::Path;
use std::time::Duration;

use super::finding::{Check, Finding};
use super::report::Report;
use crate::kubernetes::encryption_configuration::{EncryptionConfigError, Kms, Provider, Rule, read};
use crate::kubernetes::endpoint;

/// A timeout outside these limits is probably a mistake.
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
const NOT_STARTED: &str = "the API server does not start with it";

/// `slowest` is the slowest call to the key service in this check.
pub(crate) fn check(file: &Path, socket: &Path, slowest: Option<Duration>, report: &mut Report<'_>) {
    let shown = file.display().to_string();
    match read(file) {
        Ok(rules) => {
            for finding in findings(&rules, &shown, socket, slowest) {
                report.add(finding);
            }
        }
        Err(EncryptionConfigError::Refused(problems)) => {
            for problem in problems {
                let seen = format!("{}: {}", problem.place, problem.what);
                report.add(fail(&shown, seen, NOT_STARTED, problem.remedy));
            }
        }
        Err(why) => {
            let remedy = "correct the file, and keep its other providers: the file may be the only copy of their keys. kms-plugin render encryption-config writes a good kms provider";
            report.add(fail(&shown, why.to_string(), NOT_STARTED, remedy));
        }
    }
}

fn fail(shown: &str, seen: String, why: &str, remedy: impl Into<String>) -> Finding {
    Finding::fail(Check::EncryptionConfig, shown, seen, why, remedy)
}

fn findings(rules: &[Rule], shown: &str, socket: &Path, slowest: Option<Duration>) -> Vec<Finding> {
    let mut findings = masked(rules, shown);
    let wanted = endpoint::normalise(&socket.display().to_string());
    let (mut calls_us, mut written, mut endpoints) = (false, Vec::new(), Vec::new());
    for (at, rule) in rules.iter().enumerate() {
        let resources = rule.resources.join(", ");
        endpoints.extend(rule.providers.iter().filter_map(Provider::kms).map(|kms| kms.endpoint.as_str()));
        let kms = rule.providers.iter().enumerate().filter_map(|(at, provider)| Some((at, provider.kms()?)));
        let Some((position, kms)) =
            kms.into_iter().find(|(_, kms)| endpoint::normalise(&kms.endpoint) == wanted)
        else {
            continue;
        };
        calls_us = true;
        let problem = timeout(shown, &resources, kms, slowest);
        let is_good = problem.is_none();
        findings.extend(problem);
        if position > 0 {
            findings.push(second(shown, &resources, rule.providers.first().map_or("", Provider::name)));
        } else if is_good {
            let earlier = rules.get(..at).unwrap_or_default();
            let first = |resource: &&String| !earlier.iter().any(|rule| rule.resources.contains(resource));
            written.extend(rule.resources.iter().filter(first).map(String::as_str));
        }
    }
    if !calls_us {
        let named = if endpoints.is_empty() { "none".to_owned() } else { endpoints.join(", ") };
        findings.push(fail(
            shown,
            format!(
                "no KMS provider has the endpoint unix://{}; endpoints in the file: {named}",
                socket.display()
            ),
            "the API server does not call this agent",
            format!("set endpoint: unix://{} (/var/run is /run), or correct server.socket", socket.display()),
        ));
    }
    if !written.is_empty() {
        let seen = format!("writes {} with unix://{}", written.join(", "), socket.display());
        findings.push(Finding::ok(Check::EncryptionConfig, shown, seen));
    }
    findings
}

/// Resources that an earlier rule names, too: the API server accepts that, and writes with the earlier rule alone.
fn masked(rules: &[Rule], shown: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        for resource in &rule.resources {
            let earlier = rules.iter().take(at).position(|earlier| earlier.resources.contains(resource));
            let Some(earlier) = earlier else { continue };
            findings.push(Finding::warn(
                Check::EncryptionConfig,
                shown,
                format!("resources[{at}]: {resource} is masked by resources[{earlier}], which names it, too"),
                "the API server writes with the earlier rule; the later one only reads",
                "name each resource in one rule, with all of its providers in order",
            ));
        }
    }
    findings
}

fn timeout(shown: &str, resources: &str, kms: &Kms, slowest: Option<Duration>) -> Option<Finding> {
    let timeout = kms.timeout;
    if let Some(slowest) = slowest.filter(|slowest| *slowest >= timeout) {
        return Some(fail(
            shown,
            format!("{resources}: timeout is {timeout:?}, and a call took {slowest:.1?}"),
            "a call that takes this long fails, although the key service answers",
            "raise timeout (OpenShift sets 10s), and find out why Vault is slow",
        ));
    }
    (timeout < TIMEOUTS.0 || timeout > TIMEOUTS.1).then(|| {
        Finding::warn(
            Check::EncryptionConfig,
            shown,
            format!("{resources}: timeout is {timeout:?}"),
            "with a short timeout, calls fail at the smallest delay; with a long one, every request waits long while the agent is down",
            "3s is the default; OpenShift sets 10s",
        )
    })
}

/// The API server writes with the first provider, and reads with all.
fn second(shown: &str, resources: &str, first: &str) -> Finding {
    let why = match first {
        "identity" => "the API server stores new data without encryption",
        _ => "new data is not encrypted with this key",
    };
    let remedy = "put kms first, unless you are turning encryption off or moving to another provider (docs/operations.md)";
    let seen = format!(
        "{resources}: the first provider is {first}, so the API server writes with it; this agent only reads"
    );
    Finding::warn(Check::EncryptionConfig, shown, seen, why, remedy)
}
