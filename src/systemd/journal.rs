//! The last errors of a unit, from the journal: why it ended.
//!
//! Must not judge what it reads. The text is foreign: it is short, and has no control characters.

use crate::display::fit;
use crate::process;

/// Longest text of one error, in characters.
const MAX_LINE: usize = 240;
/// Most errors that are returned.
const MAX_ERRORS: usize = 2;
/// The line that systemd writes after each failed start. It has no cause.
const WITHOUT_CAUSE: &str = "Failed to start ";

/// The last errors of `unit`, oldest first, at most two: of the start with this id, or without one of the last two
/// minutes. Empty when the journal cannot be read.
pub(crate) async fn last_errors(unit: &str, invocation: Option<&str>) -> Vec<String> {
    let common = ["--quiet", "--no-pager", "--priority=err", "--output=cat", "--lines=20"];
    match invocation {
        Some(id) => {
            // The first match finds what the service logged, the second what systemd logged about it.
            let (service, systemd) = (format!("_SYSTEMD_INVOCATION_ID={id}"), format!("INVOCATION_ID={id}"));
            errors(&[&common[..], &[&service, "+", &systemd]].concat()).await
        }
        None => errors(&[&common[..], &["--since=-2min", "--unit", unit]].concat()).await,
    }
}

async fn errors(arguments: &[&str]) -> Vec<String> {
    let shown = process::run("journalctl", arguments).await.map(|shown| shown.stdout);
    causes(&shown.unwrap_or_default())
}

/// The last lines that say a cause, each once.
fn causes(shown: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in shown.lines().rev().filter(|line| !line.starts_with(WITHOUT_CAUSE)) {
        let line = fit(line, MAX_LINE);
        if !line.is_empty() && !found.contains(&line) {
            found.push(line);
        }
        if found.len() == MAX_ERRORS {
            break;
        }
    }
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_causes_are_kept_each_once_and_short() {
        let shown = "an old one\n\
                     kms-plugin.service: Failed at step EXEC spawning /bin/none: No such file or directory\n\
                     Failed to start kms-plugin.service - Kubernetes KMS v2 plugin.\n\
                     kms-plugin.service: Failed at step EXEC spawning /bin/none: No such file or directory\n\
                     Failed to start kms-plugin.service - Kubernetes KMS v2 plugin.\n";
        let found = causes(shown);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0] == "an old one" && found[1].contains("Failed at step EXEC"), "{found:?}");
        let long = causes(&format!("\u{1b}[31m{}\n", "x".repeat(10_000)));
        assert!(long[0].chars().count() <= MAX_LINE && !long[0].contains('\u{1b}'), "{long:?}");
        assert!(causes("").is_empty());
    }
}
