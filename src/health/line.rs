//! The state in one line, for an operator: the phase, since when, why, and what to do.
//!
//! The line has at most [`MAX_LINE`] characters, because `systemctl status` cuts a longer one. So it has a short remedy,
//! one for each kind of reason. The reason itself has the long remedy, for the outputs that have room. Points in time
//! are absolute: systemd may show a line long after it was sent.

use std::time::Duration;

use super::snapshot::{Phase, Reason, ReasonKind, Snapshot};
use crate::display::{fit, minute, moment};

/// Longest line, in characters.
pub(crate) const MAX_LINE: usize = 160;
/// The note about a configured namespace that the server ignores.
const IGNORED: &str = "; the server ignores the namespace: kms-plugin check";
/// What to do while the configuration on disk is not in use.
const RELOAD: &str = "correct it, then run kms-plugin reload";

impl ReasonKind {
    /// What to do, in a few words: at most 45 characters, so that the line has room for the reason.
    pub(crate) fn short_remedy(self) -> &'static str {
        match self {
            Self::NoContact => "wait a minute, then run kms-plugin check",
            Self::Unreachable => "run kms-plugin check",
            Self::Sealed => "unseal Vault: vault operator unseal",
            Self::Denied => "allow it: kms-plugin render policy",
            Self::WrongSetting => "run kms-plugin check, correct the setting",
            Self::LockedOut => "wait, or find who sends wrong credentials",
            Self::LoginDenied => "run kms-plugin check, see the role's limits",
            Self::CredentialsRefused => "put valid credentials into their file",
            Self::CredentialsUnreadable => "repair the file: kms-plugin check",
            Self::KeyMissing => "run kms-plugin check; do not create a key",
            Self::KeyUnusable => "run kms-plugin check, and repair the key",
            Self::KeyReplaced => "restore the old key, or kms-plugin accept-key",
            Self::KeyRolledBack => "restore a newer Vault, or run accept-key",
            Self::KeyNotApproved => "move to a key of type aes256-gcm96",
            Self::KeyUnreadable => "allow to read it: kms-plugin render policy",
            Self::Configuration => "correct the file; no restart is needed",
        }
    }
}

impl Snapshot {
    /// The line with the short remedy, for the STATUS line, the journal and `/healthz`.
    pub(crate) fn line(&self) -> String {
        let since = minute(self.since);
        match (&self.reason, &self.config.problem) {
            (Some(reason), _) => {
                let head = format!("{} since {since}; ", self.phase.name());
                let tail = format!("{}; remedy: {}", self.consequence(reason), reason.kind.short_remedy());
                compose(&head, &reason.text, &tail)
            }
            (None, Some(problem)) if self.phase == Phase::Ready => compose(
                "ready; the configuration on disk is not in use: ",
                problem,
                &format!("; remedy: {RELOAD}"),
            ),
            (None, _) => {
                let Some(key) = &self.primary.key else {
                    return format!("{} since {since}", self.phase.name());
                };
                let keks = self.local_keks.as_ref().filter(|_| self.phase == Phase::Ready);
                let keks = keks.map(|keks| format!("; {}", keks.line())).unwrap_or_default();
                // The warning goes first where there is room for one only.
                let ignored = self.primary.ignored_namespace.as_ref().filter(|_| self.phase == Phase::Ready);
                let note = if ignored.is_some() { IGNORED } else { &*keks };
                let tail = format!(" version {}, since {since}{note}", key.version);
                compose(&format!("{}: ", self.phase.name()), &key.scope.to_string(), &tail)
            }
        }
    }

    /// What follows from the reason, as a part of the line.
    fn consequence(&self, reason: &Reason) -> String {
        match (self.phase, self.grace_end) {
            (Phase::Degraded, end) if reason.kind.is_outage() => {
                let ok = match end {
                    Some(until) => format!("; Status ok until {}", minute(until)),
                    None => "; Status ok without a limit".to_owned(),
                };
                // Nothing is wrapped or unwrapped until the key service answers.
                let no_key = self.local_keks.as_ref().is_some_and(|keks| keks.keks + keks.seeds == 0);
                ok + if no_key { ", no key in memory" } else { "" }
            }
            (Phase::Failed, Some(_)) if self.local_keks.is_some() => "; the local KEKs are wiped".to_owned(),
            (Phase::Failed, Some(_)) => "; the grace is over".to_owned(),
            _ => String::new(),
        }
    }

    /// The phase, since when, and why, in full and without a remedy.
    pub(crate) fn summary(&self) -> String {
        let mut text = self.phase.name().to_owned();
        if let Some(key) = &self.primary.key {
            text.push_str(&format!(": {} version {}", key.scope, key.version));
        }
        text.push_str(&format!(", since {}", moment(self.since)));
        if let Some(reason) = &self.reason {
            text.push_str(&format!("; {}{}", reason.text, self.wiped_note()));
            if self.phase == Phase::Degraded && reason.kind.is_outage() {
                match self.grace_end {
                    Some(until) => text.push_str(&format!("; Status stays ok until {}", moment(until))),
                    None => text.push_str("; Status stays ok without a limit"),
                }
            }
        }
        text
    }

    /// The summary and the long remedy, for KMS Status, and for the answer to somebody who waits for one.
    pub(crate) fn details(&self) -> String {
        match &self.reason {
            Some(reason) => format!("{}; remedy: {}", self.summary(), reason.remedy),
            None => self.summary(),
        }
    }

    /// A text to add to the reason when local KEKs are wiped because of a long outage; empty otherwise.
    pub(crate) fn wiped_note(&self) -> String {
        match &self.local_keks {
            Some(keks) if self.phase == Phase::Failed && self.grace_end.is_some() => {
                let limit = humantime::format_duration(Duration::from_secs(keks.max_offline_seconds));
                format!(
                    "; the key service was not reached for longer than local_kek.max_offline ({limit}), so the keys in memory are wiped"
                )
            }
            _ => String::new(),
        }
    }
}

/// The parts as one line. Only `middle`, which has names and texts of any length, is shortened.
fn compose(head: &str, middle: &str, tail: &str) -> String {
    let room = MAX_LINE.saturating_sub(head.chars().count() + tail.chars().count());
    format!("{head}{}{tail}", fit(middle, room))
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
