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
use crate::admin::api_types::{Key, Phase, Status};
use crate::etcd::group::{Group, Owner, State};
use crate::etcd::tally::Tally;
use crate::kubernetes::encryption_configuration::Provider;

/// How many seconds each agent must have announced a version before nothing is written under an older one. An agent
/// reads the key every 60 s, an API server asks once a minute, and writes under its last seed for at most 3 minutes after
/// a failed Status.
const SETTLED: u64 = 360;

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
    /// The status of the agents on the other control plane nodes, each with the name of its file.
    pub peers: Vec<(String, Status)>,
    /// Whether there is no other control plane node.
    pub only_node: bool,
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
    /// The status of the running agent.
    pub status: Option<&'a Status>,
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
        answers.push(Answered::new(
            format!("may-raise-min-version {version}"),
            facts.raise(version, questions),
            yes,
        ));
    }
    if let Some(version) = questions.may_trim {
        let yes = "nothing in etcd needs an older version. A trim cannot be undone: every backup of etcd from before that needs one is lost";
        answers.push(Answered::new(format!("may-trim {version}"), facts.trim(version, questions), yes));
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

    fn raise(&self, version: u32, questions: &Questions) -> Reasons {
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
        let Some((status, key)) = self.agent() else {
            let why = "the running agent is needed, which knows the key: run the command as root on its node";
            reasons.unknown.push(why.into());
            return reasons;
        };
        if version > key.version {
            reasons.no.push(format!("the API servers write under version {}", key.version));
        }
        if key.versions.iter().any(|(other, _)| other < version) {
            self.settled(status, key, questions, &mut reasons);
        }
        reasons
    }

    /// Whether the API server of every node writes under the current version, and has no older seed in use.
    fn settled(&self, own: &Status, key: &Key, questions: &Questions, reasons: &mut Reasons) {
        let created = key.versions.get(key.version).unwrap_or(key.created);
        let age = u64::try_from(self.now.saturating_sub(created)).unwrap_or_default();
        let later = format!(
            "ask again when that is {SETTLED} s, because an API server may write under an older version"
        );
        if age < SETTLED {
            reasons.unknown.push(format!("version {} is {age} s old; {later}", key.version));
        }
        if questions.peers.is_empty() && !questions.only_node {
            reasons.unknown.push(
                "other nodes may write under an older version: on each, run kms-plugin status --output json > FILE, and name the files with --peer; or say --only-node".into(),
            );
        }
        let peers = questions.peers.iter().map(|(name, status)| (name.as_str(), status));
        for (name, status) in std::iter::once(("this node", own)).chain(peers) {
            if status.key_id() != Some(key.key_id.as_str()) {
                reasons.no.push(format!("{name} announces another key_id than this node"));
            } else if status.phase != Phase::Ready {
                reasons.unknown.push(format!("{name} is not ready"));
            } else if status.for_seconds < SETTLED {
                reasons.unknown.push(format!("{name} has been ready for {} s; {later}", status.for_seconds));
            }
        }
    }

    fn trim(&self, version: u32, questions: &Questions) -> Reasons {
        let mut reasons = self.raise(version, questions);
        if let Some((_, key)) = self.agent().filter(|(_, key)| key.min_decryption < version) {
            reasons.no.push(format!(
                "min_decryption_version is {}: raise it to {version} first, which can be undone",
                key.min_decryption
            ));
        }
        reasons
    }

    /// The status of the agent, and its key.
    fn agent(&self) -> Option<(&Status, &Key)> {
        self.status.and_then(|status| Some((status, status.primary.key.as_ref()?)))
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
