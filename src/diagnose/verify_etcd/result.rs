//! The report: the counts as text and as JSON, and the verdict.

use std::collections::BTreeMap;

use super::offline::Offline;
use super::questions::Answered;
use super::text::{grouped, highest_first, objects, printable, rewrite};
use crate::etcd::group::{Group, State};
use crate::etcd::tally::Tally;

pub(crate) struct Report {
    pub tally: Tally,
    /// Where the objects came from.
    pub source: String,
    /// Whether the objects were separated exactly.
    pub exact: bool,
    /// The current key_id and where it comes from, or why it is not known.
    pub current: String,
    /// Prefixes without objects.
    pub empty: Vec<String>,
    /// The keys in the memory of the agent of this node.
    pub(super) offline: Offline,
    /// Whether objects that cannot be read in an outage affect the result.
    pub offline_counts: bool,
    /// The questions that were asked, and their answers.
    pub answers: Vec<Answered>,
}

impl Report {
    /// Whether no object needs a rewrite. `None` when all objects have the same key_id, and it is not known whether
    /// that is the current one.
    pub(crate) fn finished(&self) -> Option<bool> {
        let is_unknown = self.tally.groups().keys().any(|group| group.state == State::KmsV2);
        match (self.tally.left(), is_unknown) {
            (0, false) => Some(true),
            (0, true) if self.tally.key_ids() <= 1 => None,
            _ => Some(false),
        }
    }

    pub(crate) fn verdict(&self) -> String {
        let objects = objects(self.tally.objects());
        match (self.finished(), self.tally.current()) {
            (Some(true), _) if self.as_configured() => {
                format!("finished: {objects}, all stored as the EncryptionConfiguration says")
            }
            (Some(true), current) => format!(
                "finished: {objects}, all under the current key_id {}",
                printable(current.unwrap_or_default())
            ),
            (None, _) => format!(
                "not judged: {objects}, all under one key_id, and it is not known whether this is the current one; see --current-key-id"
            ),
            (Some(false), _) => {
                let mut left = self.parts();
                if self.tally.current().is_none() && self.tally.key_ids() > 1 {
                    left.push(format!("{} key_ids in use", self.tally.key_ids()));
                }
                format!("not finished: {}{}", left.join(", "), self.rewrite())
            }
        }
    }

    /// `40 secrets under version 3`, `12 secrets plain`: the highest count first.
    fn parts(&self) -> Vec<String> {
        let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
        for (group, count) in self.left() {
            let description = match &group.state {
                State::Older(name) => format!("under {name}"),
                State::OtherKeyId => "under another key_id".into(),
                State::NotAsConfigured(how) => format!("({how})"),
                State::OtherProvider => "under another KMS provider".into(),
                State::Other(transformer) => format!("under {}", transformer.name()),
                State::Unrecognised(_) => "unrecognised".into(),
                state => state.text(),
            };
            *counts.entry((group.resource.clone(), description)).or_default() += count;
        }
        highest_first(counts)
    }

    /// Whether some objects are as they should be without being under the current key.
    fn as_configured(&self) -> bool {
        self.tally.groups().keys().any(|group| matches!(group.state, State::AsConfigured(_)))
    }

    /// The command that rewrites the objects that are left.
    fn rewrite(&self) -> String {
        // Without a current key_id, it is not known which of several key_ids is the current one: rewrite all.
        let several = self.tally.current().is_none() && self.tally.key_ids() > 1;
        rewrite(self.tally.groups().keys().filter(|group| several || !group.state.is_good()))
    }

    fn left(&self) -> impl Iterator<Item = (&Group, &u64)> {
        self.tally.groups().iter().filter(|(group, _)| !group.state.is_good())
    }

    fn offline_verdict(&self) -> Option<String> {
        self.offline.verdict(&self.tally, self.offline_counts)
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("source   {}\ncurrent  {}\n", self.source, self.current);
        if let Some(summary) = self.offline.summary(self.offline_counts) {
            text.push_str(&format!("offline  {summary}\n"));
        }
        for prefix in &self.empty {
            text.push_str(&format!("empty    nothing is below {}\n", printable(prefix)));
        }
        if !self.exact {
            text.push_str(
                "note     split at newlines, which values may also contain: only etcdctl's -w json is exact\n",
            );
        }
        if self.tally.is_folded() {
            text.push_str(
                "note     too many different keys or resources: the rest is counted under (further)\n",
            );
        }
        let states = self.tally.groups().keys().map(|group| group.state.text().chars().count());
        let width = states.max().unwrap_or_default();
        let mut resource = "";
        // A question is about all of etcd, of which most is plain.
        let shown = |group: &Group| self.answers.is_empty() || group.state != State::Plain;
        for (group, count) in self.tally.groups().iter().filter(|(group, _)| shown(group)) {
            if group.resource != resource {
                resource = &group.resource;
                let of = self
                    .tally
                    .groups()
                    .iter()
                    .filter(|(group, _)| group.resource == resource && shown(group));
                let of = of.map(|(_, count)| count).sum();
                text.push_str(&format!("\n{}: {}\n", printable(resource), objects(of)));
            }
            let mut line = format!("{:>10}  {:<width$}", grouped(*count), printable(&group.state.text()));
            if let Some(mode) = group.mode {
                line.push_str(&format!("  {:<9}", mode.text()));
            }
            if let Some(version) = group.transit_version {
                line.push_str(&format!("  Transit version {version}"));
            }
            for (name, value) in [("provider", &group.provider), ("key_id", &group.key_id)] {
                if !value.is_empty() {
                    line.push_str(&format!("  {name} {}", printable(value)));
                }
            }
            if group.readable_offline == Some(false) {
                line.push_str("  not readable in an outage");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        if !self.tally.list().is_empty() {
            text.push('\n');
        }
        for name in self.tally.list() {
            text.push_str(&format!("{}\n", printable(name)));
        }
        if !self.answers.is_empty() {
            let answers: Vec<String> = self.answers.iter().map(Answered::text).collect();
            return format!("{text}\n{}", answers.join("\n"));
        }
        let offline = self.offline_verdict().map(|verdict| format!("\n{verdict}")).unwrap_or_default();
        format!("{text}\n{}{offline}", self.verdict())
    }

    pub(crate) fn json(&self) -> String {
        let groups: Vec<_> = self
            .tally
            .groups()
            .iter()
            .map(|(group, count)| {
                let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
                serde_json::json!({
                    "resource": group.resource, "state": group.state.name(), "description": group.state.text(),
                    "objects": count, "provider": given(&group.provider), "key_id": given(&group.key_id),
                    "mode": group.mode.map(|mode| mode.name()), "transit_version": group.transit_version,
                    "readable_offline": group.readable_offline,
                })
            })
            .collect();
        let report = serde_json::json!({
            "finished": self.finished(), "verdict": self.verdict(), "source": self.source, "exact": self.exact,
            "current_key_id": self.tally.current(), "objects": self.tally.objects(), "left": self.tally.left(),
            "key_ids": self.tally.key_ids(), "groups": groups, "empty_prefixes": self.empty,
            "list": self.tally.list(), "unreadable_offline": self.tally.unreadable_offline(),
            "offline_verdict": self.offline_verdict(), "answers": self.answers,
        });
        serde_json::to_string_pretty(&report).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::tally::KnownKeys;

    fn report(current: Option<&str>, objects: &[(&str, &[u8])]) -> Report {
        let known = KnownKeys { current: current.map(str::to_owned), ..KnownKeys::default() };
        let mut tally = Tally::new(known, "/registry", 10);
        objects.iter().for_each(|(key, value)| tally.add(Some(key.as_bytes()), value));
        let (source, current) = ("here".into(), "so".into());
        let (offline, offline_counts) = (Offline::Off, false);
        let (empty, answers) = (Vec::new(), Vec::new());
        Report { tally, source, exact: true, current, empty, offline, offline_counts, answers }
    }

    #[test]
    fn the_verdict_names_what_is_left_and_the_command() {
        const KMS: &[u8] = b"k8s:enc:kms:v2:p:\x0a\x01d\x12\x03now\x1a\x0avault:v1:A";
        let good = report(Some("now"), &[("/registry/secrets/a/b", KMS)]);
        assert_eq!(good.verdict(), "finished: 1 object, all under the current key_id now");
        let unknown = report(None, &[("/registry/secrets/a/b", KMS)]);
        assert_eq!((unknown.finished(), unknown.verdict().starts_with("not judged")), (None, true));
        let left = report(
            Some("now"),
            &[
                ("/registry/secrets/a/b", KMS),
                ("/registry/secrets/a/c", b"k8s\0"),
                ("/registry/secrets/a/d", b"k8s\0"),
                ("/registry/configmaps/a/e", b"k8s:enc:aescbc:v1:k:x"),
                ("/registry/strange/a/\x1b[2J", b"?"),
            ],
        );
        assert_eq!(
            left.verdict(),
            "not finished: 2 secrets plain, 1 configmaps under aescbc, 1 strange unrecognised; rewrite them: \
             kms-plugin rewrite --resource configmaps,secrets"
        );
        assert!(!left.text().contains('\x1b'), "{}", left.text());
    }
}
