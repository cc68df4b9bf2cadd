//! Whether the key is still the one that an agent knew: a version that was made at another time is another key.

use super::finding::{Check, Finding};
use super::report::Report;
use crate::display::date;
use crate::key_service::{KeyScope, KeyVersions};

/// Compares the versions that are there with those that were known.
pub(crate) fn compare(scope: &KeyScope, now: &KeyVersions, known: &KeyVersions, report: &mut Report) {
    let subject = format!("{}/keys/{}", scope.mount, scope.key);

    let other = known.iter().find_map(|(version, before)| {
        let made = now.get(version).filter(|made| *made != before)?;
        Some(format!(
            "version {version} was made at {}, not at {}: the key was deleted and made again",
            date(*made),
            date(*before)
        ))
    });
    let lower = known.keys().next_back().zip(now.keys().next_back()).filter(|(before, now)| before > now);
    let lower = lower.map(|(before, now)| {
        format!("the newest version is {now}, and was {before}: Vault was restored from before a rotation")
    });
    if let Some(seen) = other.or(lower) {
        let why =
            "what was wrapped with the other key cannot be unwrapped with this one; the agent writes nothing";
        let remedy =
            "restore the old key from a backup; only if all data under it is given up: kms-plugin accept-key";
        let finding = Finding::fail(Check::Key, subject, seen, why, remedy);
        report.add(finding.at("the-key-was-replaced-or-rolled-back"));
    }
}
