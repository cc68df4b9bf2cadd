//! Output to stdout and stderr. When the reader is gone (`| head`), the command ends without an error.

use std::io::{self, IsTerminal as _};

use super::exit::{Exit, Failure};

/// Writes `text` and a newline to stdout.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    write(&mut io::stdout().lock(), &format!("{text}\n")).map(drop)
}

/// Writes text with colours to stdout. Without a terminal, or with `NO_COLOR`, the colours are removed.
pub(crate) fn styled(text: &str) -> Result<(), Failure> {
    streamed(text).map(drop)
}

/// As [`styled`]. Returns whether the reader is still there.
pub(crate) fn streamed(text: &str) -> Result<bool, Failure> {
    write(&mut anstream::stdout().lock(), text)
}

fn write(stdout: &mut impl io::Write, text: &str) -> Result<bool, Failure> {
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(Exit::Internal, error)),
    }
}

/// The width of the terminal in columns; `None` when stdout is not a terminal: then lines are not wrapped.
pub(crate) fn width() -> Option<usize> {
    io::stdout().is_terminal().then(textwrap::termwidth)
}

/// The format of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    #[value(alias = "table")]
    Text,
    /// For programs.
    Json,
}
