//! The engines behind `check`, `support-bundle`, `probe` and `verify-etcd`: they examine, judge and report.
//!
//! Must not know the command line, nor print.

pub(crate) mod bundle;
pub(crate) mod check;
pub(crate) mod probe;
pub(crate) mod status_text;
pub(crate) mod verify_etcd;

/// The name of the key service that wraps, as the agent's status has it.
const PRIMARY: &str = "primary";

/// A time in milliseconds, as reports show it.
fn millis(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
