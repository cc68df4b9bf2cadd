//! Writing to stdout and stderr. A reader that went away (`| head`) ends the command quietly.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use super::exit::{Exit, Failure};

/// Writes `text` and a newline to stdout.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    write(&mut io::stdout().lock(), &format!("{text}\n")).map(drop)
}

/// Writes text with colours to stdout: they are left out unless it is a terminal, and when `NO_COLOR` is set.
pub(crate) fn styled(text: &str) -> Result<(), Failure> {
    streamed(text).map(drop)
}

/// The same; whether somebody still reads.
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

/// A time as it is told: in milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The width of the terminal that stdout is, in columns; `None` when it is none: then lines are not broken.
pub(crate) fn width() -> Option<usize> {
    io::stdout().is_terminal().then(textwrap::termwidth)
}

/// Writes a line to stderr; nobody reading it is no failure.
pub(crate) fn error_line(text: &str) {
    let _closed = writeln!(io::stderr().lock(), "{text}");
}

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    #[value(alias = "table")]
    Text,
    /// For programs.
    Json,
}
