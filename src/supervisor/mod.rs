//! Keeps the agent alive and its state true: the tasks, the phases, the saved identity.
//!
//! Only this floor spawns long-lived tasks. Must not know the command line.

mod acceptor;
mod agent;
mod core;
mod dispatcher;
mod error;
mod identity;
mod keeper;
mod kms_server;
mod local;
mod observer;
pub mod phase;
mod publisher;
mod reasons;
mod restart;
mod runtime_dir;
mod services;
mod watchdog;

pub use agent::{ADMIN_SOCKET, Agent, ReloadRequest};
pub use error::AgentError;
pub use identity::saved_versions;
pub use runtime_dir::{is_ours_alone, make as make_runtime_dir};
