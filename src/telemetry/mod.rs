//! The log (journal with fields, or lines on stderr), and the counters. Must not know the agent's state.

mod log;
pub(crate) mod metrics;
pub(crate) mod throttle;

pub(crate) use log::{Log, LogTarget, init, stderr_is_the_journal};
