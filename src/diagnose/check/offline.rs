//! Local KEKs: whether an API server could be restarted while Vault is away, and whether the keys are kept as they
//! should be.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::agent::AgentView;
use super::finding::{Check, Finding};
use super::report::Report;
use super::service_user::ServiceUser;
use super::unit::Units;
use crate::admin::types::LocalKeks;
use crate::local_kek::MAX_LOCKED;

/// The section of docs/troubleshooting.md on keys that could reach a disk.
pub(crate) const SWAPPED: &str = "the-keys-in-memory-can-be-swapped-out";
/// Why the list of wrapped keys matters.
const FORGETFUL: &str = "an agent that starts would not know which keys to have unwrapped ahead of an outage";
/// Why keys should outlive the process.
const LOST: &str = "an agent that restarts in an outage has no keys then, and an API server can read nothing";
const UNIT: &str = "kms-plugin.service";

/// Looks at all that local KEKs need on this node.
pub(crate) fn check(state_dir: &Path, units: &Units, agent: &AgentView, report: &mut Report) {
    judge_state(state_dir, units, agent.runs(), report);
    judge_unit(units, report);
    match agent.local_keks() {
        None => report.add(Finding::skipped(Check::Offline, "", "no agent answers: its keys are not known")),
        Some(None) => report.add(Finding::warn(
            Check::Offline,
            "",
            "the running agent has local KEKs off, and its configuration turns them on",
            "an API server that is restarted while Vault is away can read nothing",
            "have it read its configuration: kms-plugin reload",
        )),
        Some(Some(keks)) => judge_keys(keks, units, report),
    }
}

/// The directory of the list of wrapped keys.
fn judge_state(directory: &Path, units: &Units, runs: bool, report: &mut Report) {
    let subject = directory.display().to_string();
    let warn = |seen: String, remedy: String| {
        Finding::warn(Check::Offline, subject.clone(), seen, FORGETFUL, remedy)
    };
    let user = ServiceUser::of(units);
    let owner = user.as_ref().map_or("kms-plugin", |user| user.name.as_str());
    let mend = format!("chown {owner} {subject} && chmod 0700 {subject}");
    report.add(match (fs::metadata(directory), &user) {
        (Err(_), _) if !runs => {
            Finding::skipped(Check::Offline, &subject, "is not there yet: the agent makes it")
        }
        (Err(cause), _) => warn(
            format!("is not there, while the agent runs: {cause}"),
            format!("mkdir -m 0700 {subject} && chown {owner} {subject}, or systemctl restart kms-plugin"),
        ),
        (Ok(found), _) if !found.is_dir() => warn(
            "is no directory".into(),
            format!("remove it and restart the agent: rm {subject} && systemctl restart kms-plugin"),
        ),
        (Ok(found), _) if found.mode() & 0o077 != 0 => warn(
            format!("its mode is {:04o}: others may look into it or change it", found.mode() & 0o7777),
            mend,
        ),
        (Ok(_), Err(why)) => Finding::skipped(Check::Offline, &subject, why.clone()),
        (Ok(_), Ok(user)) => match user.may_write_in(directory) {
            Ok(()) => Finding::ok(Check::Offline, &subject, format!("written to by {}", user.name)),
            Err(at) => {
                let seen = format!("user {} may not write there: {} is in the way", user.name, at.display());
                warn(seen, mend)
            }
        },
    });
}

/// What the unit allows.
fn judge_unit(units: &Units, report: &mut Report) {
    if units.kept_descriptors() == Some(0) {
        report.add(Finding::warn(
            Check::Offline,
            UNIT,
            "systemd keeps no descriptors for it (FileDescriptorStoreMax=0)",
            LOST,
            "take FileDescriptorStoreMax= out of the drop-in that changes it (systemctl cat kms-plugin.service), then: systemctl daemon-reload && systemctl restart kms-plugin",
        ));
    }
    if let Some(bytes) = units.lockable_memory().filter(|bytes| *bytes < MAX_LOCKED as u64) {
        let warning = Finding::warn(
            Check::Offline,
            UNIT,
            format!(
                "may lock {} KiB of memory (LimitMEMLOCK); the keys need up to {}",
                bytes / 1024,
                MAX_LOCKED / 1024
            ),
            "keys that are not locked can be swapped out to a disk",
            format!(
                "set LimitMEMLOCK={}K below [Service] (systemctl edit kms-plugin.service), then: systemctl daemon-reload && systemctl restart kms-plugin",
                MAX_LOCKED / 1024
            ),
        );
        report.add(warning.at(SWAPPED));
    }
}

/// What the running agent has in memory.
fn judge_keys(keks: &LocalKeks, units: &Units, report: &mut Report) {
    let kept = if keks.kept { "kept by systemd" } else { "lost when the agent restarts" };
    let seen = format!("{}; local KEKs: {}; {kept}", keks.line, keks.keks);
    report.add(match (keks.ready, keks.missing) {
        (true, _) => Finding::ok(Check::Offline, "", seen),
        (false, 0) => Finding::warn(
            Check::Offline,
            "",
            seen,
            "an API server that is restarted while Vault is away could write nothing",
            "it is made within seconds while Vault lets the agent encrypt: see the lines on policy, round trips and the agent above, and journalctl -u kms-plugin -p warning",
        ),
        (false, _) => Finding::warn(
            Check::Offline,
            "",
            seen,
            "an API server that is restarted while Vault is away does not become ready: it reads everything at its start",
            "ten a second are unwrapped, when Vault is back or as soon as the agent is ready (kms-plugin status); if the number stays, see journalctl -u kms-plugin -p warning",
        ),
    });
    if keks.seeds > 0 {
        report.add(Finding::ok(
            Check::Offline,
            "direct mode",
            format!(
                "seeds in memory that no local KEK wraps: {}; kms-plugin verify-etcd --offline tells which objects are still under such, and how to rewrite them",
                keks.seeds
            ),
        ));
    }
    if keks.keks + keks.seeds > 0 && !keks.locked {
        let warning = Finding::warn(
            Check::Offline,
            "memory",
            "the keys in memory are not locked: the limit is too low",
            "they can be swapped out to a disk, and found there later",
            "raise LimitMEMLOCK= of the unit (in a container, the memlock limit of its runtime), or turn the swap off: swapoff -a",
        );
        report.add(warning.at(SWAPPED));
    }
    if !keks.kept && units.is_active() {
        report.add(Finding::warn(
            Check::Offline,
            UNIT,
            "the running agent cannot leave its keys with systemd (there is no NOTIFY_SOCKET)",
            LOST,
            "take Type= and NotifyAccess= out of the drop-in that changes them (systemctl cat kms-plugin.service), then: systemctl daemon-reload && systemctl restart kms-plugin",
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The subject, the outcome and what was seen, of each finding.
    fn found(judge: impl FnOnce(&mut Report)) -> Vec<String> {
        let mut report = Report::new(false);
        judge(&mut report);
        let findings = report.json()["findings"].clone();
        let line = |finding: &Value| {
            let part = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
            format!("{} {}: {} {}", part("outcome"), part("subject"), part("seen"), part("see"))
        };
        findings.as_array().unwrap().iter().map(line).collect()
    }

    #[test]
    fn a_unit_that_keeps_or_locks_too_little_is_told() {
        let of = |shown: &str| found(|report| judge_unit(&Units::of_service(shown), report));
        assert!(of("FileDescriptorStoreMax=64\nLimitMEMLOCK=8388608").is_empty());
        assert!(of("LimitMEMLOCK=infinity").is_empty());
        assert!(of("").is_empty());
        let told = of("FileDescriptorStoreMax=0\nLimitMEMLOCK=65536");
        assert!(told[0].contains("warn kms-plugin.service: systemd keeps no descriptors"), "{told:?}");
        assert!(told[1].contains("may lock 64 KiB") && told[1].contains(SWAPPED), "{told:?}");
    }

    #[test]
    fn memory_that_is_not_locked_and_keys_that_are_not_kept_are_told() {
        let units = Units::of_service("ActiveState=active");
        let of = |keks: u64, kept: bool| {
            let line = "ready for an outage of 8h".to_owned();
            let keks = LocalKeks { line, ready: true, keks, kept, ..LocalKeks::default() };
            found(|report| judge_keys(&keks, &units, report))
        };
        assert_eq!(of(0, true).len(), 1, "no keys, no danger");
        let told = of(1, false);
        assert!(told[0].starts_with("ok : ready for an outage of 8h; local KEKs: 1;"), "{told:?}");
        assert!(told[1].contains("warn memory") && told[1].contains(SWAPPED), "{told:?}");
        assert!(told[2].contains("cannot leave its keys with systemd"), "{told:?}");
    }
}
