//! The report: findings as they come for people, or all at once for programs.

use anstyle::{AnsiColor, Style};
use serde_json::json;

use super::finding::{Finding, Outcome};
use crate::cli::exit::Failure;
use crate::cli::report::{self, Output};

/// Column at which the text of a finding begins, where the terminal is wide enough for two columns.
const INDENT: usize = 24;
/// A terminal narrower than this gets one column.
const NARROW: usize = 60;

/// Findings, and how they are shown.
pub(crate) struct Report {
    findings: Vec<Finding>,
    /// Whether each finding is printed when it is made: a dead address takes seconds.
    live: bool,
    /// Why nothing more can be printed.
    closed: Option<Failure>,
}

impl Report {
    pub(crate) fn new(live: bool) -> Self {
        Self { findings: Vec::new(), live, closed: None }
    }

    pub(crate) fn add(&mut self, finding: Finding) {
        if self.live
            && self.closed.is_none()
            && let Err(failure) = report::styled(&text(&finding, report::width()))
        {
            self.closed = Some(failure);
        }
        self.findings.push(finding);
    }

    pub(crate) fn worst(&self) -> Outcome {
        let judged = self.findings.iter().map(|finding| finding.outcome);
        judged.filter(|outcome| *outcome != Outcome::Skipped).max().unwrap_or(Outcome::Ok)
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

    pub(crate) fn show(&mut self, output: Output) -> Result<(), Failure> {
        if let Some(failure) = self.closed.take() {
            return Err(failure);
        }
        match output {
            Output::Json => report::line(&serde_json::to_string_pretty(&self.json()).unwrap_or_default()),
            Output::Text => report::line(&format!("\n{}", self.summary())),
        }
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

    /// All of it as plain text.
    pub(crate) fn plain(&self) -> String {
        let lines: String = self.findings.iter().map(|finding| text(finding, None)).collect();
        anstream::adapter::strip_str(&format!("{lines}\n{}\n", self.summary())).to_string()
    }
}

/// A finding in lines of at most `width`; without a width, what belongs together is on one line.
fn text(finding: &Finding, width: Option<usize>) -> String {
    let about = match finding.subject.as_str() {
        "" => finding.seen.clone(),
        subject => format!("{subject}: {}", finding.seen),
    };
    let (word, name) = (finding.outcome.name(), finding.check.name());
    let (columns, about, indent) = match width {
        Some(..NARROW) => (format!("{word:<4}  "), format!("{name}: {about}"), 6),
        _ => (format!("{word:<4}  {name:<17} "), about, INDENT),
    };
    // Wrapped as if the first columns were blank; then they are put in their place.
    let body = wrapped(&about, &" ".repeat(columns.len()), indent, width);
    let body = body.get(columns.len()..).unwrap_or_default();
    let style = style(finding.outcome);
    let (word, rest) = columns.split_at(4);
    let mut text = format!("{style}{word}{style:#}{rest}{body}\n");
    for (name, detail) in [("why", &finding.why), ("do", &finding.remedy), ("see", &finding.see)] {
        if let Some(detail) = detail {
            let label = format!("{}{name:<4} ", " ".repeat(indent));
            text.push_str(&wrapped(detail, &label, indent + 5, width));
            text.push('\n');
        }
    }
    text
}

fn style(outcome: Outcome) -> Style {
    let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
    match outcome {
        Outcome::Ok => colour(AnsiColor::Green),
        Outcome::Skipped => Style::new().dimmed(),
        Outcome::Warn => colour(AnsiColor::Yellow).bold(),
        Outcome::Fail => colour(AnsiColor::Red).bold(),
    }
}

/// Long words are not broken: a path or a command must be whole to be copied.
fn wrapped(text: &str, first: &str, indent: usize, width: Option<usize>) -> String {
    let Some(width) = width else { return format!("{first}{text}") };
    let rest = " ".repeat(indent);
    let options = textwrap::Options::new(width.max(indent + 10))
        .initial_indent(first)
        .subsequent_indent(&rest)
        .word_separator(textwrap::WordSeparator::AsciiSpace)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .break_words(false);
    textwrap::fill(text, options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::check::finding::Check;

    fn finding() -> Finding {
        let why = "the agent would not be able to reach the server at all, and so neither read nor write";
        Finding::fail(Check::Dns, "https://vault.example:8200", "the name is not known", why, "correct it")
    }

    #[test]
    fn lines_fit_a_terminal_of_forty_columns_and_say_the_same() {
        let words = |text: &str| text.split_whitespace().collect::<String>();
        let plain = |width| anstream::adapter::strip_str(&text(&finding(), width)).to_string();
        for width in [1, 40, 60, 80, 200] {
            let shown = plain(Some(width));
            assert!(shown.starts_with("fail  "), "{shown}");
            assert!(words(&shown).contains("neitherreadnorwrite"), "{shown}");
        }
        let narrow = plain(Some(40));
        let long = narrow.lines().filter(|line| line.chars().count() > 40 && !line.contains("docs/")).count();
        assert_eq!(long, 0, "{narrow}");
        assert_eq!(plain(None).lines().count(), 4, "{}", plain(None));
    }

    #[test]
    fn the_worst_outcome_counts_and_a_skipped_check_does_not() {
        let mut report = Report::new(false);
        assert_eq!(report.worst(), Outcome::Ok);
        report.add(Finding::skipped(Check::Peer, "", "no peer was named"));
        assert_eq!(report.worst(), Outcome::Ok);
        report.add(Finding::warn(Check::Key, "", "old", "", ""));
        assert_eq!(report.worst(), Outcome::Warn);
        report.add(finding());
        assert_eq!(report.worst(), Outcome::Fail);
        assert_eq!(report.summary(), "1 failed, 1 warning, 0 ok, 1 not tested");
    }
}
