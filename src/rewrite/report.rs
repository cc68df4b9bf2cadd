//! The result of a run, as text and as JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::outcome::{Done, Problem};
use super::readiness::Server;
use crate::display::{ago, fit};

/// Most examples of one problem.
const MAX_EXAMPLES: usize = 5;
/// Most different problems of one resource.
const MAX_PROBLEMS: usize = 20;

/// What became of the objects of one resource.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Tally {
    /// Objects that were listed.
    pub objects: u64,
    /// Written by this run, and stored anew.
    pub anew: u64,
    /// The API server had nothing to write.
    pub unchanged: u64,
    /// Written by others since the API servers have the key, or by an earlier run.
    pub newer: u64,
    /// Written by others between the list and the write.
    pub written_meanwhile: u64,
    pub deleted: u64,
    /// Whether kube-controller-manager has written them: its writes count as newer.
    pub by_migration: bool,
    /// Why the list ended before its end; `None` when it did not.
    pub list_problem: Option<String>,
    pub failed: u64,
    pub problems: Vec<Failed>,
}

/// Objects that were not rewritten for the same reason.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Failed {
    #[serde(flatten)]
    pub problem: Problem,
    pub objects: u64,
    /// The first ones.
    pub examples: Vec<String>,
    /// What the API server said about the first one.
    pub message: String,
    /// What to do.
    pub remedy: &'static str,
}

/// Whether etcd proves the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Every object is as it should be; the line of `verify-etcd`.
    Finished(String),
    /// Something is left; the line of `verify-etcd`.
    Left(String),
    /// Why etcd was not asked, or did not answer.
    None(String),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// Everything was rewritten, and etcd proves it.
    Proven,
    /// Everything was rewritten, as far as the API servers say.
    NotProven,
    /// Something is left.
    Left,
    /// Nothing was begun.
    NotBegun,
    /// Nothing was to be written: a dry run.
    Planned,
}

/// The result of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Why nothing was begun.
    pub not_begun: Option<String>,
    pub dry_run: bool,
    /// What the objects are brought under, for people.
    pub target: String,
    pub servers: Vec<Server>,
    /// By the name of the resource, in the order in which they were done.
    pub resources: Vec<(String, Tally)>,
    /// Why the run ended before its end.
    pub stopped: Option<String>,
    /// `None` when the run did not come so far.
    pub proof: Option<Proof>,
    pub seconds: u64,
    /// In a dry run: how long it will take at the most writes per second that are allowed.
    pub estimate: Option<u64>,
}

impl Tally {
    /// Counts an object that needs nothing more.
    pub(super) fn done(&mut self, done: Done) {
        *match done {
            Done::Anew => &mut self.anew,
            Done::Unchanged => &mut self.unchanged,
            Done::WrittenMeanwhile => &mut self.written_meanwhile,
            Done::Deleted => &mut self.deleted,
        } += 1;
    }

    /// Counts an object that was not rewritten.
    pub(super) fn failed(&mut self, object: &str, problem: &Problem, message: &str) {
        self.failed += 1;
        let known = self.problems.iter().position(|failed| failed.problem == *problem);
        let at = known.unwrap_or_else(|| {
            if self.problems.len() < MAX_PROBLEMS {
                self.problems.push(Failed {
                    problem: problem.clone(),
                    objects: 0,
                    examples: Vec::new(),
                    message: message.to_owned(),
                    remedy: problem.remedy(),
                });
            }
            self.problems.len() - 1
        });
        if let Some(failed) = self.problems.get_mut(at) {
            failed.objects += 1;
            if failed.examples.len() < MAX_EXAMPLES {
                failed.examples.push(fit(object, 120));
            }
        }
    }

    fn left(&self) -> bool {
        self.failed > 0 || self.list_problem.is_some()
    }

    fn text(&self, name: &str) -> String {
        let counts: BTreeMap<u8, (u64, &str)> = [
            (self.anew, "stored anew"),
            (self.unchanged, "stored so already"),
            (self.newer, "newer than the beginning"),
            (self.written_meanwhile, "written by others meanwhile"),
            (self.deleted, "deleted meanwhile"),
            (self.failed, "NOT rewritten"),
        ]
        .into_iter()
        .zip(0..)
        .map(|(count, at)| (at, count))
        .filter(|(_, (count, _))| *count > 0)
        .collect();
        let counts: Vec<String> = counts.values().map(|(count, what)| format!("{count} {what}")).collect();
        let by = if self.by_migration { ", written by a StorageVersionMigration" } else { "" };
        let counts = if counts.is_empty() { String::new() } else { format!(": {}", counts.join(", ")) };
        let mut text = format!("{name}: {}{by}{counts}\n", number(self.objects));
        if let Some(problem) = &self.list_problem {
            text.push_str(&format!("  the list ended early: {problem}\n"));
        }
        for failed in &self.problems {
            text.push_str(&format!(
                "  {}: {}: {}{}\n    {}\n    remedy: {}\n",
                number(failed.objects),
                failed.problem.text(),
                failed.examples.join(", "),
                if failed.objects > failed.examples.len() as u64 { ", …" } else { "" },
                failed.message,
                failed.remedy,
            ));
        }
        text
    }
}

/// `1 object`, `2 objects`.
fn number(objects: u64) -> String {
    format!("{objects} object{}", if objects == 1 { "" } else { "s" })
}

impl Report {
    pub(crate) fn verdict(&self) -> Verdict {
        if self.not_begun.is_some() {
            return Verdict::NotBegun;
        }
        if self.dry_run {
            return Verdict::Planned;
        }
        let left = self.stopped.is_some() || self.resources.iter().any(|(_, tally)| tally.left());
        match &self.proof {
            Some(Proof::Left(_)) => Verdict::Left,
            _ if left => Verdict::Left,
            Some(Proof::Finished(_)) => Verdict::Proven,
            Some(Proof::None(_)) | None => Verdict::NotProven,
        }
    }

    /// In a dry run: how many objects would be written.
    pub(crate) fn planned(&self) -> u64 {
        self.resources.iter().map(|(_, tally)| tally.objects.saturating_sub(tally.newer)).sum()
    }

    /// How many objects were listed.
    pub(crate) fn objects(&self) -> u64 {
        self.resources.iter().map(|(_, tally)| tally.objects).sum()
    }

    fn conclusion(&self) -> String {
        let took = ago(std::time::Duration::from_secs(self.seconds));
        match (self.verdict(), &self.proof) {
            (Verdict::NotBegun, _) => {
                format!("not begun: {}", self.not_begun.as_deref().unwrap_or_default())
            }
            (Verdict::Planned, _) => {
                let estimate = self
                    .estimate
                    .map(|seconds| format!(", {} or longer", ago(std::time::Duration::from_secs(seconds))));
                format!(
                    "dry run: {} would be written{}",
                    number(self.planned()),
                    estimate.unwrap_or_default()
                )
            }
            (Verdict::Left, Some(Proof::Left(line))) => format!("objects are left, after {took}: {line}"),
            (Verdict::Left, _) => {
                let why = self.stopped.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
                format!("objects are left, after {took}{why}; run the same command again, and it goes on")
            }
            (Verdict::Proven, Some(Proof::Finished(line))) => format!("rewritten in {took}: {line}"),
            (_, proof) => {
                let why = match proof {
                    Some(Proof::None(why)) => why.as_str(),
                    _ => "etcd was not asked",
                };
                format!(
                    "rewritten in {took}, not proven: {why}; run kms-plugin verify-etcd before you raise min_decryption_version or remove a provider"
                )
            }
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("target   {}\n", self.target);
        for server in &self.servers {
            let state = server.problem.as_deref().unwrap_or("ready");
            text.push_str(&format!("server   {}: {state}\n", server.address));
        }
        if !self.resources.is_empty() {
            text.push('\n');
        }
        for (name, tally) in &self.resources {
            text.push_str(&tally.text(name));
        }
        format!("{text}\n{}", self.conclusion())
    }

    /// `verification` is the report of `verify-etcd`, where there is one.
    pub(crate) fn json(&self, verification: Option<Value>) -> String {
        let resources: serde_json::Map<String, Value> = self
            .resources
            .iter()
            .map(|(name, tally)| (name.clone(), serde_json::to_value(tally).unwrap_or_default()))
            .collect();
        let report = serde_json::json!({
            "verdict": self.verdict(), "conclusion": self.conclusion(), "target": self.target,
            "servers": self.servers, "resources": resources, "objects": self.objects(),
            "seconds": self.seconds, "estimated_seconds": self.estimate, "stopped": self.stopped,
            "not_begun": self.not_begun, "verification": verification,
        });
        serde_json::to_string_pretty(&report).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::outcome::ProblemKind;
    use super::*;

    fn report(tally: Tally, proof: Proof) -> Report {
        Report { resources: vec![("secrets".into(), tally)], proof: Some(proof), ..Report::default() }
    }

    #[test]
    fn only_etcd_makes_it_a_success() {
        let all = || Tally { objects: 3, anew: 3, ..Tally::default() };
        assert_eq!(report(all(), Proof::Finished(String::new())).verdict(), Verdict::Proven);
        assert_eq!(report(all(), Proof::Left(String::new())).verdict(), Verdict::Left);
        let unproven = report(all(), Proof::None("no --endpoint was given".into()));
        assert_eq!(unproven.verdict(), Verdict::NotProven);
        assert!(unproven.text().contains("not proven: no --endpoint was given; run kms-plugin verify-etcd"));
        let failed = Tally { objects: 3, anew: 2, failed: 1, ..Tally::default() };
        assert_eq!(report(failed, Proof::None(String::new())).verdict(), Verdict::Left);
        let broken = Tally { list_problem: Some("500".into()), ..Tally::default() };
        assert_eq!(report(broken, Proof::Finished(String::new())).verdict(), Verdict::Left);
        let stopped = Report { stopped: Some("interrupted".into()), ..Report::default() };
        assert_eq!(stopped.verdict(), Verdict::Left);
    }

    #[test]
    fn problems_are_grouped_with_their_remedy() {
        let problem = Problem { kind: ProblemKind::Admission, by: "no.example.com".into() };
        let mut tally = Tally { objects: 100, ..Tally::default() };
        (0..100).for_each(|at| tally.failed(&format!("a/{at}"), &problem, "denied the request"));
        assert_eq!((tally.failed, tally.problems.len(), tally.problems[0].objects), (100, 1, 100));
        let text = tally.text("secrets");
        assert!(
            text.contains("100 objects: refused by admission no.example.com: a/0, a/1, a/2, a/3, a/4, …")
        );
        assert!(text.contains("remedy: exempt updates"), "{text}");
        for at in 0..50 {
            let other = Problem { kind: ProblemKind::Other, by: format!("{at}") };
            tally.failed("x", &other, "");
        }
        assert_eq!((tally.problems.len(), tally.failed), (MAX_PROBLEMS, 150));
    }
}
