//! Formats times and errors for people: in the log, in reports and in the status line. Programs get numbers.

use std::time::{Duration, UNIX_EPOCH};

use crate::clock::BootTime;

/// A time in seconds since 1970 as a date (RFC 3339, UTC). A time before 1970 is shown as 1970.
pub(crate) fn date(unix_seconds: i64) -> String {
    let since = Duration::from_secs(u64::try_from(unix_seconds).unwrap_or_default());
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

/// A time on the wall clock (RFC 3339, UTC), to the second.
pub(crate) fn moment(at: BootTime) -> String {
    humantime::format_rfc3339_seconds(at.wall()).to_string()
}

/// A duration in its two largest units.
pub(crate) fn ago(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// An error with its causes, on one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}")).replace('\n', "; ")
}
