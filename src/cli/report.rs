//! Writing to stdout and stderr. A reader that went away (`| head`) ends the command quietly.

use std::io::{self, Write as _};

use super::exit::{Exit, Failure};

/// Writes `text` and a newline to stdout.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(Exit::Internal, error)),
        _ => Ok(()),
    }
}

/// Writes a line to stderr; nobody reading it is no failure.
pub(super) fn error_line(text: &str) {
    let _closed = writeln!(io::stderr().lock(), "{text}");
}

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}
