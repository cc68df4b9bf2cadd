//! What is wrong with a configuration, and where.

use std::fmt;

use crate::untrusted;

/// Every problem that was found in a configuration, a line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct ConfigError {
    /// The problems, in the order of the files.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for problem in &self.problems {
            write!(f, "{separator}{}: {}", problem.place, problem.message)?;
            separator = "\n";
        }
        Ok(())
    }
}

/// One problem of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// `file:line`, a variable, a flag, or the key.
    pub place: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    /// Both are shown on terminals and in the log, and may hold parts of a value: they lose hidden characters.
    pub(crate) fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: untrusted::visible(&place.into()), message: untrusted::visible(&message.into()) }
    }

    /// A variable of the environment that is set and has no value. Ignoring it would hide the mistake that caused it.
    pub(crate) fn empty_variable(name: &str) -> Self {
        Self::new(name, "the variable is set, but empty; give it a value, or unset it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Merged, Settings, Sources};

    /// A value that is not valid is repeated in its problem. Found by the fuzz target `command_line`.
    #[test]
    fn a_value_with_an_escape_sequence_cannot_change_a_terminal() {
        for (key, value) in
            [("vault.addresses", "htt\u{1b}[2J"), ("log.level", "a\rb"), ("vault.namespace", "\u{202e}x/")]
        {
            let flags = vec![(key.to_owned(), value.to_owned())];
            let sources = Sources { flags, ..Sources::default() };
            let refused =
                Merged::load(&sources).and_then(|merged| Settings::from_merged(&merged)).unwrap_err();
            assert!(refused.problems.iter().any(|problem| problem.message.contains(key)), "{refused:?}");
            let text = refused.to_string();
            assert!(!text.lines().any(|line| line.contains(untrusted::is_hidden)), "{text:?}");
        }
    }
}
