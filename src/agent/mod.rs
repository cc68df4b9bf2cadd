//! Composes an agent: start, tasks, reload, drain, signals, readiness, watchdog and status line.
//!
//! Only this room spawns long-lived tasks. Must not know the command line.

mod core;
mod error;
mod lifecycle;
mod listeners;
mod local_keks;
mod memory;
mod readiness;
mod reload;
mod runtime_dir;
mod server_restart;
mod services;
mod status_line;
mod stop_signals;
mod timing;
mod unconfigured;
mod watchdog;

#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/agent.rs"]
pub(crate) mod fuzz;

#[cfg(test)]
#[path = "../../tests/simulation/mod.rs"]
mod simulation;

pub(crate) use error::{AgentError, ReloadError};
pub(crate) use lifecycle::Agent;
pub(crate) use listeners::passed;
pub(crate) use reload::Reloader;
pub(crate) use runtime_dir::{is_ours_alone, make as make_runtime_dir};
pub(crate) use stop_signals::{Signals, stop_in_time};
pub(crate) use unconfigured::{ConfigSource, Unconfigured, log as log_unloadable};
