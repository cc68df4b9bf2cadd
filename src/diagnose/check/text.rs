//! Findings as text for people: in two columns on a wide terminal, in one column on a narrow one.
//!
//! Pure functions: the caller knows the width, and whether the output shows colours.

use anstyle::{AnsiColor, Style};

use super::finding::{Finding, Outcome};
use super::report::Report;

/// Column at which the text of a finding begins, where the terminal is wide enough for two columns.
const INDENT: usize = 24;
/// A terminal narrower than this gets one column.
const NARROW: usize = 60;

/// The whole report as plain text.
pub(crate) fn report_text(report: &Report<'_>) -> String {
    let lines: String = report.findings().iter().map(|finding| finding_text(finding, None)).collect();
    anstream::adapter::strip_str(&format!("{lines}\n{}\n", report.summary())).to_string()
}

/// A finding in lines of at most `width` columns, with colours. Without a width, each part is on one line.
pub(crate) fn finding_text(finding: &Finding, width: Option<usize>) -> String {
    let about = match finding.subject.as_str() {
        "" => finding.seen.clone(),
        subject => format!("{subject}: {}", finding.seen),
    };
    let (word, name) = (finding.outcome.name(), finding.check.name());
    let (columns, about, indent) = match width {
        Some(..NARROW) => (format!("{word:<4}  "), format!("{name}: {about}"), 6),
        _ => (format!("{word:<4}  {name:<17} "), about, INDENT),
    };
    // The text is wrapped with blanks in place of the first columns. The columns replace the blanks afterwards,
    // because the codes of their colours must not count as width.
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

/// Long words are not broken: people copy paths and commands as a whole.
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

    #[test]
    fn lines_fit_a_terminal_of_forty_columns_and_say_the_same() {
        let why = "the agent would not be able to reach the server at all, and so neither read nor write";
        let subject = "https://vault.example:8200";
        let finding = Finding::fail(Check::Dns, subject, "the name is not known", why, "correct it");
        let words = |text: &str| text.split_whitespace().collect::<String>();
        let plain = |width| anstream::adapter::strip_str(&finding_text(&finding, width)).to_string();
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
}
