//! Text that the parts of the report share: numbers, names from etcd, counts, and the command that rewrites objects.

use std::collections::BTreeMap;

use crate::etcd::group::{Group, State};
use crate::etcd::tally::UNKNOWN;
use crate::untrusted;

/// Most counts, and most resources to rewrite, that one line names.
const MAX_PARTS: usize = 5;

/// `40 secrets plain`, from counts by resource and description: the highest count first.
pub(super) fn highest_first(counts: BTreeMap<(String, String), u64>) -> Vec<String> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let further: u64 = counts.iter().skip(MAX_PARTS).map(|(_, count)| count).sum();
    let mut parts: Vec<String> = counts
        .iter()
        .take(MAX_PARTS)
        .map(|((resource, description), count)| {
            let resource = if resource == UNKNOWN { "values" } else { resource };
            printable(&format!("{} {resource} {description}", grouped(*count)))
        })
        .collect();
    if further > 0 {
        parts.push(format!("{} others", grouped(further)));
    }
    parts
}

/// The command that makes the API server write the objects of these groups again. Empty when no resource is known.
pub(super) fn rewrite<'a>(groups: impl Iterator<Item = &'a Group>) -> String {
    let mut resources: Vec<&str> = groups
        .filter(|group| !matches!(group.state, State::Unrecognised(_)) && !group.resource.starts_with('('))
        .map(|group| group.resource.as_str())
        .collect();
    resources.dedup();
    if resources.is_empty() {
        return String::new();
    }
    resources.truncate(MAX_PARTS);
    let resources = printable(&resources.join(","));
    format!("; rewrite them: kms-plugin rewrite --resource {resources}")
}

/// Text from etcd without control characters, for a terminal.
pub(crate) fn printable(text: &str) -> String {
    untrusted::visible(text)
}

pub(super) fn objects(number: u64) -> String {
    format!("{} object{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// A number with commas.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_commas() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
