//! `/healthz` and `/readyz` as text: the checks, and what is wrong.

use crate::clock::BootTime;
use crate::display::ago;
use crate::health::{Phase, ReasonKind as Kind, ServiceState, Snapshot};

/// One check with its result, as kube's own `?verbose` shows it.
struct Check {
    name: String,
    state: CheckState,
}

enum CheckState {
    Good,
    /// Nothing was seen of it yet.
    Unknown,
    Failed(String),
}

impl Check {
    fn new(name: impl Into<String>, known: bool, failure: Option<String>) -> Self {
        let state = match failure {
            Some(why) => CheckState::Failed(why),
            None if known => CheckState::Good,
            None => CheckState::Unknown,
        };
        Self { name: name.into(), state }
    }

    /// `[+]vault ok`, `[-]vault failed: …`, `[?]key not known yet`.
    fn line(&self) -> String {
        match &self.state {
            CheckState::Good => format!("[+]{} ok", self.name),
            CheckState::Unknown => format!("[?]{} not known yet", self.name),
            CheckState::Failed(why) => format!("[-]{} failed: {why}", self.name),
        }
    }
}

/// Whether everything works: the primary, and every key service that only unwraps.
pub(super) fn healthy(snapshot: &Snapshot) -> bool {
    snapshot.phase == Phase::Ready && snapshot.decrypt_only.iter().all(ServiceState::is_readable)
}

/// The checks behind `/healthz`, in order.
fn checks(snapshot: &Snapshot) -> Vec<Check> {
    let reason = snapshot.reason.as_ref().filter(|_| snapshot.phase != Phase::Ready);
    let of = |kinds: &[Kind]| {
        let reason = reason.filter(|reason| kinds.contains(&reason.kind))?;
        Some(format!("{}; remedy: {}", reason.text, reason.remedy))
    };
    let primary = &snapshot.primary;
    let reached = snapshot.proven || primary.addresses.iter().any(|address| address.reachable == Some(true));
    let mut checks = vec![
        Check::new("vault", reached, of(&[Kind::NoContact, Kind::Unreachable, Kind::Sealed])),
        Check::new(
            "auth",
            primary.token.as_ref().is_none_or(|token| token.held),
            of(&[Kind::CredentialsRefused, Kind::CredentialsUnreadable]),
        ),
        Check::new(
            "key",
            primary.key.is_some() && !snapshot.unread,
            of(&[
                Kind::Denied,
                Kind::KeyMissing,
                Kind::KeyUnusable,
                Kind::KeyReplaced,
                Kind::KeyRolledBack,
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

/// What is wrong, in one line: the state's, or that of a key service that only unwraps.
pub(super) fn trouble(snapshot: &Snapshot) -> String {
    let other = snapshot.decrypt_only.iter().find(|other| !other.is_readable());
    match (snapshot.phase, other) {
        (Phase::Ready, Some(other)) => {
            let why = other.problem.as_deref().unwrap_or("its key was not read yet");
            format!("{}; but decrypt_only {:?}: {why}", snapshot.line(), other.name)
        }
        _ => snapshot.line(),
    }
}

/// The verbose form: one line a check, and a verdict.
pub(super) fn verbose(snapshot: &Snapshot, endpoint: &str, good: bool) -> String {
    let mut text: String = checks(snapshot).iter().map(|check| check.line() + "\n").collect();
    if let Some(until) = snapshot.until.filter(|_| snapshot.phase == Phase::Degraded) {
        text.push_str(&format!("grace: Status stays ok for {} more\n", ago(until.since(BootTime::now()))));
    }
    if let Some(offline) = &snapshot.offline {
        text.push_str(&format!("offline: {}", offline.line()));
        if snapshot.phase != Phase::Ready {
            text.push_str(&format!("; {} of it left", ago(offline.left(BootTime::now()))));
        }
        text.push('\n');
    }
    let verdict = if good { "passed" } else { "failed" };
    text.push_str(&format!("{endpoint} check {verdict}\n"));
    text
}
