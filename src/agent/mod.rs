//! The composition of an agent: its tasks, start, reload, drain, signals, readiness, watchdog and status line.
//!
//! Only this room spawns long-lived tasks. Must not know the command line.

mod agent;
mod core;
mod error;
mod local_keks;
mod reload;
mod restart;
mod runtime_dir;
mod services;
mod signals;
mod status_line;
mod watchdog;

pub(crate) use agent::Agent;
pub(crate) use error::AgentError;
pub(crate) use reload::Reloader;
pub(crate) use runtime_dir::{is_ours_alone, make as make_runtime_dir};
pub(crate) use signals::Signals;
