//! What an administrator may do now: remove the plugin, raise the lowest version, trim versions, rely on a backup.
//!
//! The answers come from every object in etcd, from the EncryptionConfigurations in use, and from what the agent knows
//! about its key. Where something is not known, there is no answer: a wrong yes loses data.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::seeds::Unwrapped;
use super::source::Configuration;
use super::text::{grouped, highest_first, printable};
use crate::admin::api_types::Key;
use crate::etcd::group::{Group, Owner, State};
use crate::etcd::tally::Tally;
use crate::kubernetes::encryption_configuration::Provider;

/// How old a version must be before nothing is written under an older one. An API server looks once a minute, and
/// writes under its last seed for at most 3 minutes after a failed look.
const SETTLED: i64 = 300;

/// What is asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Questions {
    /// May the plugin be stopped and removed?
    pub may_remove: bool,
    /// May `min_decryption_version` become this version?
    pub may_raise_min_version: Option<u32>,
    /// May the versions below this one be trimmed?
    pub may_trim: Option<u32>,
    /// Can the agent on this socket unwrap every seed?
    pub can_read_seeds: Option<PathBuf>,
}

impl Questions {
    pub(crate) fn any(&self) -> bool {
        self.may_remove
            || self.may_raise_min_version.is_some()
            || self.may_trim.is_some()
            || self.can_read_seeds.is_some()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Yes,
    No,
    /// Something that the answer needs is not known.
    Unknown,
}

/// A question and its answer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Answered {
    pub question: String,
    pub answer: Answer,
    /// Each reason; for a yes, what it rests on.
    pub why: Vec<String>,
}

impl Answered {
    fn new(question: impl Into<String>, reasons: Reasons, yes: &str) -> Self {
        let Reasons { no, unknown } = reasons;
        let (answer, why) = match (no.is_empty(), unknown.is_empty()) {
            (false, _) => (Answer::No, no),
            (true, false) => (Answer::Unknown, unknown),
            (true, true) => (Answer::Yes, vec![yes.to_owned()]),
        };
        Self { question: question.into(), answer, why }
    }

    pub(super) fn text(&self) -> String {
        let answer = match self.answer {
            Answer::Yes => "yes",
            Answer::No => "no",
            Answer::Unknown => "not judged",
        };
        format!("{}: {answer}: {}", self.question, printable(&self.why.join("; ")))
    }
}

/// What the answers rest on.
pub(super) struct Facts<'a> {
    pub tally: &'a Tally,
    pub configurations: &'a [Configuration],
    /// The agent's key.
    pub key: Option<&'a Key>,
    /// In seconds since 1970.
    pub now: i64,
    pub seeds: Option<&'a Unwrapped>,
}

#[derive(Default)]
struct Reasons {
    no: Vec<String>,
    unknown: Vec<String>,
}

/// The answers, in the order of the fields of [`Questions`].
pub(super) fn answers(questions: &Questions, facts: &Facts<'_>) -> Vec<Answered> {
    let mut answers = Vec::new();
    if questions.may_remove {
        let yes = "nothing in etcd is under KMS v2, and no given EncryptionConfiguration names a KMS provider. This holds if every API server of every node was restarted with these files; keep the Transit key for as long as you keep a backup of etcd from before";
        answers.push(Answered::new("may-remove", facts.remove(), yes));
    }
    if let Some(version) = questions.may_raise_min_version {
        let yes = "nothing in etcd needs an older version. A backup of etcd from before may need one: then do not, or lower the version again for the restore";
        answers.push(Answered::new(format!("may-raise-min-version {version}"), facts.raise(version), yes));
    }
    if let Some(version) = questions.may_trim {
        let yes = "nothing in etcd needs an older version. A trim cannot be undone: every backup of etcd from before that needs one is lost";
        answers.push(Answered::new(format!("may-trim {version}"), facts.trim(version), yes));
    }
    if let Some(read) = facts.seeds {
        let yes = format!("{} seeds of {} objects were unwrapped", grouped(read.good), grouped(read.objects));
        answers.push(Answered::new("can-read-seeds", facts.can_read(read), &yes));
    }
    answers
}

impl Facts<'_> {
    fn remove(&self) -> Reasons {
        let mut reasons = self.unrecognised();
        let under_kms = self.count(|group| group.kms.is_some());
        if !under_kms.is_empty() {
            reasons.no.push(format!("{} in etcd are under KMS v2", under_kms.join(", ")));
        }
        if self.configurations.is_empty() {
            reasons.unknown.push(
                "name the file of each kind of API server that is in use: --encryption-config FILE".into(),
            );
        }
        for Configuration { file, rules } in self.configurations {
            for rule in rules {
                for kms in rule.providers.iter().filter_map(Provider::kms) {
                    reasons.no.push(format!(
                        "{} names the KMS provider {} for {}: an API server with this file is not ready without the plugin",
                        file.display(), kms.name, rule.resources.join(", "),
                    ));
                }
            }
        }
        reasons
    }

    fn raise(&self, version: u32) -> Reasons {
        let mut reasons = self.unrecognised();
        let ours = |group: &Group| group.kms == Some(Owner::Ours);
        let below =
            self.count(|group| ours(group) && group.transit_version.is_some_and(|used| used < version));
        if !below.is_empty() {
            reasons.no.push(format!("{} in etcd need an older version", below.join(", ")));
        }
        let none = self.count(|group| ours(group) && group.transit_version.is_none());
        if !none.is_empty() {
            reasons.unknown.push(format!("the version of {} is not known", none.join(", ")));
        }
        let Some(key) = self.key else {
            let why = "the running agent is needed, which knows the key: run the command as root on its node";
            reasons.unknown.push(why.into());
            return reasons;
        };
        if version > key.version {
            reasons.no.push(format!("the API servers write under version {}", key.version));
        }
        // The current version may be newer than the one that is asked about; what counts is how long it was announced.
        let announced = key.versions.get(&key.version).copied().unwrap_or(key.created);
        let age = self.now.saturating_sub(announced);
        let has_older = key.versions.keys().any(|other| *other < version);
        if has_older && age < SETTLED {
            reasons.unknown.push(format!(
                "version {} is {age} s old, and API servers may write under an older one for {SETTLED} s: ask again later",
                key.version
            ));
        }
        reasons
    }

    fn trim(&self, version: u32) -> Reasons {
        let mut reasons = self.raise(version);
        if let Some(key) = self.key.filter(|key| key.min_decryption < version) {
            reasons.no.push(format!(
                "min_decryption_version is {}: raise it to {version} first, which can be undone",
                key.min_decryption
            ));
        }
        reasons
    }

    fn can_read(&self, read: &Unwrapped) -> Reasons {
        let mut reasons = self.unrecognised();
        for (why, count) in &read.failed {
            let (seeds, objects) = count;
            let s = if *seeds == 1 { "" } else { "s" };
            reasons.no.push(format!("{} seed{s} of {} objects: {why}", grouped(*seeds), grouped(*objects)));
        }
        if read.too_many {
            reasons.unknown.push("there are too many different seeds".into());
        }
        if read.good == 0 && read.failed.is_empty() {
            reasons.unknown.push("nothing in etcd is under KMS v2".into());
        }
        reasons
    }

    /// Objects of which it is not known what they need.
    fn unrecognised(&self) -> Reasons {
        let found = self.count(|group| matches!(group.state, State::Unrecognised(_)));
        let mut reasons = Reasons::default();
        if !found.is_empty() {
            reasons.unknown.push(format!("{} are not recognised", found.join(", ")));
        }
        reasons
    }

    /// `40 secrets`, the highest count first.
    fn count(&self, wanted: impl Fn(&Group) -> bool) -> Vec<String> {
        let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
        for (group, count) in self.tally.groups().iter().filter(|(group, _)| wanted(group)) {
            *counts.entry((group.resource.clone(), String::new())).or_default() += count;
        }
        highest_first(counts).into_iter().map(|part| part.trim_end().to_owned()).collect()
    }
}

#[cfg(test)]
#[path = "questions_tests.rs"]
mod tests;
