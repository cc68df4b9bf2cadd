//! The snapshot as text and as JSON.

use serde::Serialize;

use crate::clock::BootTime;
use crate::snapshot::{Announce, Phase, Reason, ServiceState, Snapshot, ago};

/// `/status`: the snapshot without secrets, times as seconds.
#[derive(Serialize)]
pub(super) struct StatusBody<'a> {
    version: &'static str,
    phase: Phase,
    line: String,
    for_seconds: u64,
    reason: Option<&'a Reason>,
    grace_left_seconds: Option<u64>,
    last_contact_seconds_ago: Option<u64>,
    kms_status: Announce,
    primary: &'a ServiceState,
    decrypt_only: &'a [ServiceState],
}

pub(super) fn status(snapshot: &Snapshot) -> StatusBody<'_> {
    let now = BootTime::now();
    StatusBody {
        version: env!("CARGO_PKG_VERSION"),
        phase: snapshot.phase,
        line: snapshot.line(),
        for_seconds: now.since(snapshot.since).as_secs(),
        reason: snapshot.reason.as_ref(),
        grace_left_seconds: snapshot.until.map(|until| until.since(now).as_secs()),
        last_contact_seconds_ago: snapshot.last_contact.map(|contact| now.since(contact).as_secs()),
        kms_status: snapshot.announce,
        primary: &snapshot.primary,
        decrypt_only: &snapshot.decrypt_only,
    }
}

/// One check with its result, as kube's own `?verbose` shows it.
pub(super) struct Check {
    name: String,
    failure: Option<String>,
}

impl Check {
    /// `[+]vault ok`, `[-]vault failed: …`.
    fn line(&self) -> String {
        match &self.failure {
            None => format!("[+]{} ok", self.name),
            Some(why) => format!("[-]{} failed: {why}", self.name),
        }
    }
}

/// The checks behind `/healthz`, in order.
pub(super) fn checks(snapshot: &Snapshot) -> Vec<Check> {
    let reason = snapshot.reason.as_ref().filter(|_| snapshot.phase != Phase::Ready);
    let when = |holds: fn(&Reason) -> bool| {
        reason
            .filter(|reason| holds(reason))
            .map(|reason| format!("{}; remedy: {}", reason.text, reason.remedy))
    };
    use crate::snapshot::ReasonKind as Kind;
    let mut checks = vec![
        Check { name: "vault".into(), failure: when(|reason| reason.kind.is_outage()) },
        Check {
            name: "auth".into(),
            failure: when(|reason| {
                matches!(reason.kind, Kind::Denied | Kind::CredentialsRefused | Kind::CredentialsUnreadable)
            }),
        },
        Check {
            name: "key".into(),
            failure: when(|reason| {
                matches!(
                    reason.kind,
                    Kind::KeyMissing
                        | Kind::KeyUnusable
                        | Kind::KeyReplaced
                        | Kind::KeyRolledBack
                        | Kind::KeyUnreadable
                )
            }),
        },
    ];
    for service in std::iter::once(&snapshot.primary).chain(&snapshot.decrypt_only) {
        for address in &service.addresses {
            let failure = match address.reachable {
                Some(false) => Some(address.reason.clone().unwrap_or_else(|| "not reachable".into())),
                _ => None,
            };
            checks.push(Check { name: format!("{}/{}", service.name, address.address), failure });
        }
    }
    checks
}

/// The verbose form: one line a check, and a verdict.
pub(super) fn verbose(snapshot: &Snapshot, endpoint: &str, good: bool) -> String {
    let mut text: String = checks(snapshot).iter().map(|check| check.line() + "\n").collect();
    if let Some(until) = snapshot.until.filter(|_| snapshot.phase == Phase::Degraded) {
        text.push_str(&format!("grace: Status stays ok for {} more\n", ago(until.since(BootTime::now()))));
    }
    let verdict = if good { "passed" } else { "failed" };
    text.push_str(&format!("{endpoint} check {verdict}\n"));
    text
}
