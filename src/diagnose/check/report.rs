//! The report: all findings, in order, and their numbers.

use serde_json::json;

use super::finding::{Finding, Outcome};

/// Collects the findings of a check.
pub(crate) struct Report<'a> {
    findings: Vec<Finding>,
    on_finding: Box<dyn FnMut(&Finding) + 'a>,
}

impl<'a> Report<'a> {
    /// `on_finding` gets each finding at once: an address that does not answer takes seconds.
    pub(crate) fn new(on_finding: impl FnMut(&Finding) + 'a) -> Self {
        Self { findings: Vec::new(), on_finding: Box::new(on_finding) }
    }

    pub(super) fn add(&mut self, finding: Finding) {
        (self.on_finding)(&finding);
        self.findings.push(finding);
    }

    pub(crate) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The worst outcome. Skipped checks do not count.
    pub(crate) fn worst(&self) -> Outcome {
        let outcomes = self.findings.iter().map(|finding| finding.outcome);
        outcomes.filter(|outcome| *outcome != Outcome::Skipped).max().unwrap_or(Outcome::Ok)
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.findings.iter().filter(|finding| finding.outcome == outcome).count()
    }

    /// The last line for people.
    pub(crate) fn summary(&self) -> String {
        let [failed, warned, skipped, good] =
            [Outcome::Fail, Outcome::Warn, Outcome::Skipped, Outcome::Ok].map(|outcome| self.count(outcome));
        let warnings = if warned == 1 { "warning" } else { "warnings" };
        format!("{failed} failed, {warned} {warnings}, {good} ok, {skipped} not tested")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "worst": self.worst(),
            "failed": self.count(Outcome::Fail),
            "warnings": self.count(Outcome::Warn),
            "ok": self.count(Outcome::Ok),
            "skipped": self.count(Outcome::Skipped),
            "findings": self.findings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::check::finding::Check;

    #[test]
    fn the_worst_outcome_counts_and_a_skipped_check_does_not() {
        let mut live = 0;
        let mut report = Report::new(|_| live += 1);
        assert_eq!(report.worst(), Outcome::Ok);
        report.add(Finding::skipped(Check::Peer, "", "no peer was named"));
        assert_eq!(report.worst(), Outcome::Ok);
        report.add(Finding::warn(Check::Key, "", "old", "", ""));
        assert_eq!(report.worst(), Outcome::Warn);
        report.add(Finding::fail(Check::Dns, "", "unknown", "", ""));
        assert_eq!(report.worst(), Outcome::Fail);
        assert_eq!(report.summary(), "1 failed, 1 warning, 0 ok, 1 not tested");
        drop(report);
        assert_eq!(live, 3);
    }
}
