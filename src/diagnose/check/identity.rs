//! Whether the key is the one that the agent knows. A version with another creation time is another key.

use super::finding::{Check, Finding};
use super::report::Report;
use crate::display::date;
use crate::key_service::{KeyScope, KeyVersions};

/// Compares the versions that Vault has now with the versions that the agent knows.
pub(crate) fn compare(scope: &KeyScope, now: &KeyVersions, known: &KeyVersions, report: &mut Report<'_>) {
    let subject = format!("{}/keys/{}", scope.mount, scope.key);

    let other = known.iter().find_map(|(version, before)| {
        let created = now.get(version).filter(|created| *created != before)?;
        Some(format!(
            "version {version} was created at {}, not at {}: the key was deleted and created again",
            date(created),
            date(before)
        ))
    });
    let newest = |versions: &KeyVersions| versions.iter().next_back().map(|(version, _)| version);
    let lower = newest(known).zip(newest(now)).filter(|(before, now)| before > now);
    let lower = lower.map(|(before, now)| {
        format!(
            "the newest version is {now}, and was {before}: Vault was restored to a state before a rotation"
        )
    });
    if let Some(seen) = other.or(lower) {
        let why = "this key cannot unwrap what the other key wrapped; the agent does not wrap with it";
        let remedy =
            "restore the old key from a backup. Only if you give up all data under it: kms-plugin accept-key";
        let finding = Finding::fail(Check::Key, subject, seen, why, remedy);
        report.add(finding.at("the-key-was-replaced-or-rolled-back"));
    }
}
