//! What is wrong with a configuration, and where.

use std::fmt;

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
    pub(crate) fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into() }
    }

    /// A variable of the environment that is set and has no value. Ignoring it would hide the mistake that caused it.
    pub(crate) fn empty_variable(name: &str) -> Self {
        Self::new(name, "the variable is set, but empty; give it a value, or unset it")
    }
}
