//! Local KEKs: whether an API server can be restarted while Vault is unreachable, and whether the keys are stored
//! safely.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::access::Access;
use super::agent::AgentView;
use super::finding::{Check, Finding};
use super::report::Report;
use super::service_user::ServiceUser;
use crate::admin::api_types::LocalKeks;
use crate::local_kek::MAX_LOCKED;
use crate::systemd::units::{SERVICE, Units};

/// The section of docs/troubleshooting.md about keys that can reach a disk.
pub(crate) const SWAPPED: &str = "the-keys-in-memory-can-be-swapped-out";
/// Why the list of wrapped keys matters.
const WITHOUT_LIST: &str = "an agent that starts does not know which keys to unwrap before an outage";
/// Why keys must survive a restart.
const LOST: &str = "after a restart in an outage the agent has no keys, and an API server can read nothing";

/// Checks everything that local KEKs need on this node.
pub(crate) fn check(state_dir: &Path, units: &Units, agent: &AgentView, report: &mut Report<'_>) {
    check_directory(state_dir, units, agent.runs(), report);
    check_unit(units, report);
    match agent.local_keks() {
        None => report.add(Finding::skipped(Check::Offline, "", "no agent answers: its keys are unknown")),
        Some(None) => report.add(Finding::warn(
            Check::Offline,
            "",
            "the running agent has local KEKs off, but the configuration turns them on",
            "an API server that restarts while Vault is unreachable can read nothing",
            "reload the configuration: kms-plugin reload",
        )),
        Some(Some(keks)) => check_keys(keks, units, report),
    }
}

/// Checks the directory of the list of wrapped keys.
fn check_directory(directory: &Path, units: &Units, runs: bool, report: &mut Report<'_>) {
    let subject = directory.display().to_string();
    let warn = |seen: String, remedy: String| {
        Finding::warn(Check::Offline, subject.clone(), seen, WITHOUT_LIST, remedy)
    };
    let user = ServiceUser::of(units);
    let owner = user.as_ref().map_or("kms-plugin", |user| user.name.as_str());
    let fix = format!("chown {owner} {subject} && chmod 0700 {subject}");
    let uid = user.as_ref().map_or(0, |user| user.uid);
    let is_open = || Access::of(directory).is_some_and(|access| access.is_open_beyond(uid));
    report.add(match (fs::metadata(directory), &user) {
        (Err(_), _) if !runs => {
            Finding::skipped(Check::Offline, &subject, "is not there yet: the agent creates it")
        }
        (Err(cause), _) => warn(
            format!("is not there, while the agent runs: {cause}"),
            format!("mkdir -m 0700 {subject} && chown {owner} {subject}, or systemctl restart kms-plugin"),
        ),
        (Ok(found), _) if !found.is_dir() => warn(
            "is not a directory".into(),
            format!("remove it and restart the agent: rm {subject} && systemctl restart kms-plugin"),
        ),
        (Ok(found), _) if is_open() => {
            warn(format!("its mode is {:04o}: other users can read or change it", found.mode() & 0o7777), fix)
        }
        (Ok(_), Err(why)) => Finding::skipped(Check::Offline, &subject, why.to_string()),
        (Ok(_), Ok(user)) => match user.may_write_in(directory) {
            Ok(()) => Finding::ok(Check::Offline, &subject, format!("user {} can write there", user.name)),
            Err(at) => {
                let seen =
                    format!("user {} cannot write there: {} does not allow it", user.name, at.display());
                warn(seen, user.grant_own(directory, &at))
            }
        },
    });
}

/// Checks the limits of the unit.
fn check_unit(units: &Units, report: &mut Report<'_>) {
    if units.service.stored_descriptors() == Some(0) {
        report.add(Finding::warn(
            Check::Offline,
            SERVICE,
            "systemd stores no file descriptors for it (FileDescriptorStoreMax=0)",
            LOST,
            "remove FileDescriptorStoreMax= from the drop-in that changes it (systemctl cat kms-plugin.service), then: systemctl daemon-reload && systemctl restart kms-plugin",
        ));
    }
    if let Some(bytes) = units.service.lockable_memory().filter(|bytes| *bytes < MAX_LOCKED as u64) {
        let warning = Finding::warn(
            Check::Offline,
            SERVICE,
            format!(
                "may lock {} KiB of memory (LimitMEMLOCK); the keys need up to {}",
                bytes / 1024,
                MAX_LOCKED / 1024
            ),
            "keys in memory that is not locked can be swapped out to a disk",
            format!(
                "set LimitMEMLOCK={}K under [Service] (systemctl edit kms-plugin.service), then: systemctl daemon-reload && systemctl restart kms-plugin",
                MAX_LOCKED / 1024
            ),
        );
        report.add(warning.at(SWAPPED));
    }
}

/// Checks the keys in the memory of the running agent.
fn check_keys(keks: &LocalKeks, units: &Units, report: &mut Report<'_>) {
    let stored = if keks.kept { "stored by systemd" } else { "lost when the agent restarts" };
    let seen = format!("{}; local KEKs: {}; {stored}", keks.line, keks.keks);
    report.add(match (keks.ready, keks.missing) {
        (true, _) => Finding::ok(Check::Offline, "", seen),
        (false, 0) => Finding::warn(
            Check::Offline,
            "",
            seen,
            "an API server that restarts while Vault is unreachable can write nothing",
            "the agent makes one within seconds if Vault allows it to encrypt: see the lines `policy`, `round-trip` and `agent` above, and journalctl -u kms-plugin -p warning",
        ),
        (false, _) => Finding::warn(
            Check::Offline,
            "",
            seen,
            "an API server that restarts while Vault is unreachable does not become ready: it reads everything at its start",
            "wait: while Vault answers, the agent unwraps ten keys a second (kms-plugin status); if the number does not fall, see journalctl -u kms-plugin -p warning",
        ),
    });
    if keks.seeds > 0 {
        report.add(Finding::ok(
            Check::Offline,
            "direct mode",
            format!(
                "seeds in memory that no local KEK wraps: {}; kms-plugin verify-etcd --offline shows which objects still use such seeds, and how to rewrite them",
                keks.seeds
            ),
        ));
    }
    if keks.keks + keks.seeds > 0 && !keks.locked {
        let warning = Finding::warn(
            Check::Offline,
            "memory",
            "the keys in memory are not locked: the limit is too low",
            "they can be swapped out to a disk, where others may read them later",
            "raise LimitMEMLOCK= of the unit (in a container, the memlock limit of its runtime), or turn swap off: swapoff -a",
        );
        report.add(warning.at(SWAPPED));
    }
    if !keks.kept && units.service.is_active() {
        report.add(Finding::warn(
            Check::Offline,
            SERVICE,
            "the running agent cannot store its keys in systemd (NOTIFY_SOCKET is not set)",
            LOST,
            "remove Type= and NotifyAccess= from the drop-in that changes them (systemctl cat kms-plugin.service), then: systemctl daemon-reload && systemctl restart kms-plugin",
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The subject, the outcome and what was seen, of each finding.
    fn found(check: impl FnOnce(&mut Report<'_>)) -> Vec<String> {
        let mut report = Report::new(|_| ());
        check(&mut report);
        let findings = report.json()["findings"].clone();
        let line = |finding: &Value| {
            let part = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
            format!("{} {}: {} {}", part("outcome"), part("subject"), part("seen"), part("see"))
        };
        findings.as_array().unwrap().iter().map(line).collect()
    }

    #[test]
    fn a_unit_that_stores_or_locks_too_little_is_a_warning() {
        let of = |shown: &str| found(|report| check_unit(&Units::of_service(shown), report));
        assert!(of("FileDescriptorStoreMax=64\nLimitMEMLOCK=8388608").is_empty());
        assert!(of("LimitMEMLOCK=infinity").is_empty());
        assert!(of("").is_empty());
        let found = of("FileDescriptorStoreMax=0\nLimitMEMLOCK=65536");
        assert!(
            found[0].contains("warn kms-plugin.service: systemd stores no file descriptors"),
            "{found:?}"
        );
        assert!(found[1].contains("may lock 64 KiB") && found[1].contains(SWAPPED), "{found:?}");
    }

    #[test]
    fn memory_that_is_not_locked_and_keys_that_are_not_stored_are_warnings() {
        let units = Units::of_service("ActiveState=active");
        let of = |keks: u64, kept: bool| {
            let line = "ready for an outage of 8h".to_owned();
            let keks = LocalKeks { line, ready: true, keks, kept, ..LocalKeks::default() };
            found(|report| check_keys(&keks, &units, report))
        };
        assert_eq!(of(0, true).len(), 1, "no keys, no danger");
        let found = of(1, false);
        assert!(found[0].starts_with("ok : ready for an outage of 8h; local KEKs: 1;"), "{found:?}");
        assert!(found[1].contains("warn memory") && found[1].contains(SWAPPED), "{found:?}");
        assert!(found[2].contains("cannot store its keys in systemd"), "{found:?}");
    }
}
