//! The API server's EncryptionConfiguration: does the API server call this agent, and does it write with it?

use std::path::Path;
use std::time::Duration;

use super::finding::{Check, Finding};
use super::report::Report;
use crate::kubernetes::encryption_configuration::{Kms, Provider, read};
use crate::kubernetes::{duration, endpoint};

/// kube-apiserver's own default for `timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);
/// A timeout outside these limits is probably a mistake.
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// `slowest` is the slowest call to the key service in this check.
pub(crate) fn check(file: &Path, socket: &Path, slowest: Option<Duration>, report: &mut Report<'_>) {
    let shown = file.display().to_string();
    let fail = |seen: String, why: &str, remedy: String| {
        Finding::fail(Check::EncryptionConfig, &shown, seen, why, remedy)
    };
    let rules = match read(file) {
        Ok(rules) => rules,
        Err(why) => {
            let remedy = "correct the file, and keep its other providers: the file may be the only copy of their keys. kms-plugin render encryption-config writes a good kms provider".to_owned();
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
            format!(
                "no KMS provider has the endpoint unix://{}; endpoints in the file: {named}",
                socket.display()
            ),
            "the API server does not call this agent",
            format!("set endpoint: unix://{} (/var/run is /run), or correct server.socket", socket.display()),
        ));
    } else if report.worst() == before {
        report.add(Finding::ok(
            Check::EncryptionConfig,
            &shown,
            format!("writes {} with unix://{}", found.join(", "), socket.display()),
        ));
    }
}

fn provider(shown: &str, resources: &str, kms: &Kms, slowest: Option<Duration>, report: &mut Report<'_>) {
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
            "this agent serves KMS v2; Kubernetes turns v1 off by default",
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
                format!("{resources}: timeout {value} is not a duration of Kubernetes"),
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
            "a call that takes this long fails, although the key service answers",
            "raise timeout (OpenShift sets 10s), and find out why Vault is slow",
        ));
    } else if timeout < TIMEOUTS.0 || timeout > TIMEOUTS.1 {
        report.add(Finding::warn(
            Check::EncryptionConfig,
            shown,
            format!("{resources}: timeout is {timeout:?}"),
            "with a short timeout, calls fail at the smallest delay; with a long one, every request waits long while the agent is down",
            "3s is the default; OpenShift sets 10s",
        ));
    }
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
