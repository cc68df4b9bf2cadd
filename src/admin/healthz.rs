//! `/healthz` and `/readyz` as text: the checks, and their failures.

use crate::clock::BootTime;
use crate::display::ago;
use crate::health::{Phase, ReasonKind as Kind, ServiceState, Snapshot};

/// One check with its result, in the form of kube-apiserver's `?verbose`.
struct Check {
    name: String,
    result: CheckResult,
}

enum CheckResult {
    Ok,
    /// There is no result yet.
    Unknown,
    Failed(String),
}

impl Check {
    fn new(name: impl Into<String>, known: bool, failure: Option<String>) -> Self {
        let result = match failure {
            Some(why) => CheckResult::Failed(why),
            None if known => CheckResult::Ok,
            None => CheckResult::Unknown,
        };
        Self { name: name.into(), result }
    }

    /// `[+]vault ok`, `[-]vault failed: …`, `[?]key not known yet`.
    fn line(&self) -> String {
        match &self.result {
            CheckResult::Ok => format!("[+]{} ok", self.name),
            CheckResult::Unknown => format!("[?]{} not known yet", self.name),
            CheckResult::Failed(why) => format!("[-]{} failed: {why}", self.name),
        }
    }
}

/// Whether everything works: the primary, and every key service that only unwraps.
pub(super) fn is_healthy(snapshot: &Snapshot) -> bool {
    snapshot.phase == Phase::Ready && snapshot.decrypt_only.iter().all(ServiceState::is_readable)
}

/// The checks behind `/healthz`, in order.
fn checks(snapshot: &Snapshot) -> Vec<Check> {
    let reason = snapshot.reason.as_ref().filter(|_| snapshot.phase != Phase::Ready);
    let failure = |kinds: &[Kind]| {
        let reason = reason.filter(|reason| kinds.contains(&reason.kind))?;
        Some(format!("{}; remedy: {}", reason.text, reason.remedy))
    };
    let primary = &snapshot.primary;
    let reached =
        snapshot.verified || primary.addresses.iter().any(|address| address.reachable == Some(true));
    let mut checks = vec![
        Check::new("configuration", true, failure(&[Kind::Configuration])),
        Check::new("vault", reached, failure(&[Kind::NoContact, Kind::Unreachable, Kind::Sealed])),
        Check::new(
            "auth",
            primary.token.as_ref().is_none_or(|token| token.held || !token.needed),
            failure(&[
                Kind::CredentialsRefused,
                Kind::CredentialsUnreadable,
                Kind::LockedOut,
                Kind::LoginDenied,
            ]),
        ),
        Check::new(
            "key",
            primary.key.is_some() && !snapshot.key_stale,
            failure(&[
                Kind::Denied,
                Kind::WrongSetting,
                Kind::KeyMissing,
                Kind::KeyUnusable,
                Kind::KeyReplaced,
                Kind::KeyRolledBack,
                Kind::KeyNotApproved,
                Kind::KeyUnreadable,
            ]),
        ),
    ];
    for service in std::iter::once(primary).chain(&snapshot.decrypt_only) {
        if service.name != primary.name {
            checks.push(Check::new(
                format!("{}/key", service.name),
                service.key.is_some(),
                service.problem.clone(),
            ));
        }
        for address in &service.addresses {
            let failure = (address.reachable == Some(false))
                .then(|| address.reason.clone().unwrap_or_else(|| "not reachable".into()));
            checks.push(Check::new(
                format!("{}/{}", service.name, address.address),
                address.reachable.is_some(),
                failure,
            ));
        }
    }
    checks
}

/// What is wrong, in one line. When the agent is ready, it is a problem of a key service that only unwraps.
pub(super) fn problem(snapshot: &Snapshot) -> String {
    let other = snapshot.decrypt_only.iter().find(|other| !other.is_readable());
    match (snapshot.phase, other) {
        (Phase::Ready, Some(other)) => {
            let why = other.problem.as_deref().unwrap_or("its key was not read yet");
            format!("{}; but decrypt_only {:?}: {why}", snapshot.line(), other.name)
        }
        _ => snapshot.line(),
    }
}

/// The verbose form: one line for each check, and the result.
pub(super) fn verbose(snapshot: &Snapshot, endpoint: &str, good: bool) -> String {
    let mut text: String = checks(snapshot).iter().map(|check| check.line() + "\n").collect();
    if let Some(end) = snapshot.grace_end.filter(|_| snapshot.phase == Phase::Degraded) {
        text.push_str(&format!("grace: Status stays ok for {} more\n", ago(end.since(BootTime::now()))));
    }
    for service in snapshot.services() {
        if let Some(warning) = &service.ignored_namespace {
            text.push_str(&format!(
                "namespace: {}: {}; remedy: {}\n",
                service.name, warning.text, warning.remedy
            ));
        }
    }
    // Without any configuration, the first check says the same.
    let is_running = snapshot.reason.as_ref().is_none_or(|reason| reason.kind != Kind::Configuration);
    if let Some(problem) = snapshot.config.problem.as_ref().filter(|_| is_running) {
        text.push_str(&format!("configuration: the one on disk is not in use: {problem}\n"));
    }
    if let Some(keks) = &snapshot.local_keks {
        text.push_str(&format!("offline: {}", keks.line()));
        if snapshot.phase != Phase::Ready {
            text.push_str(&format!("; {} of it left", ago(keks.left(BootTime::now()))));
        }
        text.push('\n');
    }
    let result = if good { "passed" } else { "failed" };
    text.push_str(&format!("{endpoint} check {result}\n"));
    text
}
