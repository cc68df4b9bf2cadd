//! Configuration: `document` reads a file, `raw` merges what was written, `settings` is what the agent works with.
//!
//! The only place that reads configuration. Must not know what the settings are used for.

mod auth;
mod document;
pub(crate) mod ineffective;
pub(crate) mod local_kek;
mod name;
pub(crate) mod raw;
pub mod schema;
pub(crate) mod secret;
mod section;
pub(crate) mod server;
pub(crate) mod settings;
mod validate;
pub(crate) mod vault;

pub(crate) use raw::{Merged, Sources};
pub(crate) use server::DEFAULT_RUNTIME_DIR;
pub(crate) use settings::Settings;

/// The main configuration file, where no other is named.
pub(crate) const DEFAULT_FILE: &str = "/etc/kms-plugin/config.toml";
