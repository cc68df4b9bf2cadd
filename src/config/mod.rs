//! Configuration: `document` reads a file, `raw` merges what was written, `settings` is what the agent works with.
//!
//! The only place that reads configuration. Must not know what the settings are used for.

mod auth;
mod document;
pub mod ineffective;
pub mod local_kek;
mod name;
pub mod raw;
pub mod schema;
pub mod secret;
mod section;
pub mod server;
pub mod settings;
mod validate;
pub mod vault;

pub use raw::{ConfigError, Merged, Problem, Sources};
pub use server::DEFAULT_RUNTIME_DIR;
pub use settings::Settings;

/// The main configuration file, where no other is named.
pub const DEFAULT_FILE: &str = "/etc/kms-plugin/config.toml";
