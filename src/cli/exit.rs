//! Exit codes (sysexits.h), and how a failure is told: one line a cause.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Ok = 0,
    /// A verdict: not as it should be, or not finished.
    Warned = 1,
    /// A verdict: something does not work.
    Failed = 2,
    /// The command line is wrong.
    Usage = 64,
    /// What is needed is not there.
    Unavailable = 69,
    /// A bug, or the system failed us.
    Internal = 70,
    /// The configuration is wrong.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command's failure: the exit code and the chain of causes.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    error: anyhow::Error,
}

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }

    pub(crate) fn message(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, error: anyhow::Error::msg(message.into()) }
    }

    /// Puts what was tried in front.
    pub(crate) fn context(self, message: String) -> Self {
        Self { exit: self.exit, error: self.error.context(message) }
    }

    /// The causes alone, for a caller that goes on without.
    pub(crate) fn into_error(self) -> anyhow::Error {
        self.error
    }

    /// Tells each cause on a line of its own: to the journal or to stderr, wherever the log goes.
    pub(crate) fn tell(&self) -> Exit {
        for (depth, cause) in self.error.chain().enumerate() {
            for line in cause.to_string().lines() {
                if tracing::enabled!(tracing::Level::ERROR) {
                    tracing::error!("{}{line}", if depth == 0 { "" } else { "caused by: " });
                } else {
                    super::report::error_line(&format!(
                        "{}{line}",
                        if depth == 0 { "error: " } else { "caused by: " }
                    ));
                }
            }
        }
        self.exit
    }
}

impl std::fmt::Display for Failure {
    /// The causes, on one line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&format!("{:#}", self.error).replace('\n', "; "))
    }
}
