//! The API server's EncryptionConfiguration: does the API server call this agent, and does it write with it?

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::finding::{Check, Finding};
use super::report::Report;
use crate::kubernetes::encryption_configuration::{Kms, Provider, read};

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
        let wanted = normal(&socket.display().to_string());
        if let Some((at, kms)) = kms.clone().find(|(_, kms)| normal(&kms.endpoint) == wanted) {
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

/// A time as Go writes it: numbers with units, without spaces.
fn go_time(value: &Value) -> Option<Duration> {
    let text = value.as_str()?;
    let plain =
        text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'h' | 'm' | 's' | 'u' | 'n' | 'µ'));
    if !plain || !text.ends_with(['h', 'm', 's']) {
        return None;
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * seconds;
        rest = tail;
    }
    Duration::try_from_secs_f64(total).ok().filter(|time| !time.is_zero())
}

/// A socket's path, however it is written: /var/run is /run.
fn normal(endpoint: &str) -> PathBuf {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    let path = path.strip_prefix("/var/run/").map_or_else(|| path.to_owned(), |rest| format!("/run/{rest}"));
    path.split('/').filter(|part| !part.is_empty()).collect()
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
    let timeout = match kms.timeout.as_ref().map(|value| (value, go_time(value))) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_go_reads_them() {
        let time = |text: &str| go_time(&Value::from(text)).map(|time| time.as_millis());
        assert_eq!(time("3s"), Some(3000));
        assert_eq!(time("1m30s"), Some(90_000));
        assert_eq!(time("1.5s"), Some(1500));
        assert_eq!(time("500ms"), Some(500));
        for bad in ["3", "3 s", "3sec", "", "s", "0s", "-3s", "3x", "1s2"] {
            assert_eq!(time(bad), None, "{bad}");
        }
        assert_eq!(go_time(&Value::from(3)), None);
    }
}
