//! The API server's EncryptionConfiguration: does it call this agent, and does it write through it?

use std::path::Path;
use std::time::Duration;

use super::finding::{Check, Finding};
use super::report::Report;
use crate::kubernetes::encryption_configuration::{Kms, Provider, read};
use crate::kubernetes::{duration, endpoint};

/// kube-apiserver's own default for `timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeouts outside of these are probably meant otherwise.
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// `slowest` is the slowest call to the key service that was seen.
pub(crate) fn check(file: &Path, socket: &Path, slowest: Option<Duration>, report: &mut Report) {
    let shown = file.display().to_string();
    let fail = |seen: String, why: &str, remedy: String| {
        Finding::fail(Check::EncryptionConfig, &shown, seen, why, remedy)
    };
    let rules = match read(file) {
        Ok(rules) => rules,
        Err(why) => {
            let remedy = "correct the file, and keep its other providers: it may be the only copy of their keys. kms-plugin render encryption-config shows how the kms provider looks".to_owned();
            report.add(fail(why.to_string(), "the API server does not start with it", remedy));
            return;
        }
    };
    let before = report.worst();
    let mut found = Vec::new();
    let mut endpoints = Vec::new();
    for rule in &rules {
        let resources = rule.resources.join(", ");
        let kms =
            rule.providers.iter().enumerate().filter_map(|(at, provider)| Some((at, provider.kms.as_ref()?)));
        endpoints.extend(kms.clone().map(|(_, kms)| kms.endpoint.as_str()));
        let wanted = endpoint::normalise(&socket.display().to_string());
        if let Some((at, kms)) = kms.clone().find(|(_, kms)| endpoint::normalise(&kms.endpoint) == wanted) {
            provider(&shown, &resources, kms, slowest, report);
            if at > 0 {
                report.add(second(&shown, &resources, rule.providers.first().map_or("", Provider::name)));
            }
            found.push(resources);
        }
    }
    if found.is_empty() {
        let named = if endpoints.is_empty() { "none".to_owned() } else { endpoints.join(", ") };
        report.add(fail(
            format!("no KMS provider has the endpoint unix://{}; endpoints named: {named}", socket.display()),
            "the API server does not call this agent",
            format!("set endpoint: unix://{} (/var/run is /run), or correct server.socket", socket.display()),
        ));
    } else if report.worst() == before {
        report.add(Finding::ok(
            Check::EncryptionConfig,
            &shown,
            format!("writes {} through unix://{}", found.join(", "), socket.display()),
        ));
    }
}

fn provider(shown: &str, resources: &str, kms: &Kms, slowest: Option<Duration>, report: &mut Report) {
    let endpoint = &kms.endpoint;
    if !endpoint.starts_with("unix://") {
        report.add(Finding::fail(
            Check::EncryptionConfig,
            shown,
            format!("{resources}: endpoint {endpoint:?} has no scheme"),
            "the API server does not start with it",
            format!("write it as unix://{endpoint}"),
        ));
    }
    let version = kms.api_version.as_deref();
    if version != Some("v2") {
        report.add(Finding::fail(
            Check::EncryptionConfig,
            shown,
            format!("{resources}: apiVersion is {}", version.unwrap_or("not set, which means v1")),
            "this agent serves KMS v2, and Kubernetes has v1 turned off",
            "set apiVersion: v2 at the kms provider",
        ));
    }
    let timeout = match kms.timeout.as_ref().map(|value| (value, duration::parse(value))) {
        None => DEFAULT_TIMEOUT,
        Some((_, Some(timeout))) => timeout,
        Some((value, None)) => {
            report.add(Finding::fail(
                Check::EncryptionConfig,
                shown,
                format!("{resources}: timeout {value} is no time as Kubernetes reads it"),
                "the API server does not start with it",
                "write it as 3s or 500ms",
            ));
            return;
        }
    };
    if let Some(slowest) = slowest.filter(|slowest| *slowest >= timeout) {
        report.add(Finding::fail(
            Check::EncryptionConfig,
            shown,
            format!("{resources}: timeout is {timeout:?}, and a call took {slowest:.1?}"),
            "such a call fails, although the key service answers",
            "raise timeout (10s is OpenShift's), and look why Vault is slow",
        ));
    } else if timeout < TIMEOUTS.0 || timeout > TIMEOUTS.1 {
        report.add(Finding::warn(
            Check::EncryptionConfig,
            shown,
            format!("{resources}: timeout is {timeout:?}"),
            "too short fails on every hiccup, too long makes every request wait while the agent is away",
            "3s is the default, 10s what OpenShift sets",
        ));
    }
}

/// The first provider writes; all of them read.
fn second(shown: &str, resources: &str, first: &str) -> Finding {
    let why = match first {
        "identity" => "new data is stored without encryption",
        _ => "new data is not under this key",
    };
    let remedy = "put kms first, unless encryption is being turned off or moved away (docs/operations.md)";
    let seen = format!("{resources}: {first} is first, so it writes; this agent only reads");
    Finding::warn(Check::EncryptionConfig, shown, seen, why, remedy)
}
