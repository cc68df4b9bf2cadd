//! Exit codes (sysexits.h), and failures of commands: one line for each cause.

use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::untrusted;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// No problem.
    Ok = 0,
    /// The result of a check: a warning, or not finished.
    Warned = 1,
    /// The result of a check: something does not work.
    Failed = 2,
    /// The result of `rewrite`: done, and not proven.
    Unproven = 3,
    /// The command line is wrong.
    Usage = 64,
    /// Something that the command needs is not available.
    Unavailable = 69,
    /// A bug, or an error of the system.
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

    /// Adds what the command tried to do.
    pub(crate) fn context(self, message: String) -> Self {
        Self { exit: self.exit, error: self.error.context(message) }
    }

    /// The causes without the exit code, for a caller that continues.
    pub(crate) fn into_error(self) -> anyhow::Error {
        self.error
    }

    /// Writes each cause on its own line: to the log where one is set up, otherwise to stderr. Returns the exit code.
    pub(crate) fn tell(&self) -> Exit {
        for (depth, cause) in self.error.chain().enumerate() {
            // A cause may repeat what somebody wrote into a file or a flag.
            for line in cause.to_string().lines().map(untrusted::visible) {
                if tracing::enabled!(tracing::Level::ERROR) {
                    tracing::error!("{}{line}", if depth == 0 { "" } else { "caused by: " });
                } else {
                    error_line(&format!("{}{line}", if depth == 0 { "error: " } else { "caused by: " }));
                }
            }
        }
        self.exit
    }
}

impl std::fmt::Display for Failure {
    /// The causes, on one line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&untrusted::visible(&format!("{:#}", self.error).replace('\n', "; ")))
    }
}

/// Writes a line to stderr. A closed stderr is not an error.
pub(crate) fn error_line(text: &str) {
    let _closed = writeln!(io::stderr().lock(), "{text}");
}
