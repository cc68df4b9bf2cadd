//! Configuration: `schema` lists the keys, `document` reads a file, `raw` merges the layers, `settings` has the
//! validated values that the agent works with.
//!
//! The only place that reads configuration. Must not know what the settings are for.

mod auth;
pub(crate) mod defaults;
mod document;
pub(crate) mod endpoint;
pub(crate) mod forward_proxy;
pub(crate) mod ineffective;
pub(crate) mod local_kek;
mod name;
mod problem;
mod raw;
pub mod schema;
pub(crate) mod secret;
mod section;
pub(crate) mod server;
pub(crate) mod settings;
pub(crate) mod spiffe;
mod validate;
pub(crate) mod vault;

#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/config.rs"]
pub(crate) mod fuzz;

pub(crate) use problem::{ConfigError, Problem};
pub(crate) use raw::{Merged, Sources, fragment_directory, fragments};
pub(crate) use schema::DEFAULT_RUNTIME_DIR;
pub(crate) use settings::{Provisional, Settings};

/// The main configuration file, unless another one is named.
pub(crate) const DEFAULT_FILE: &str = "/etc/kms-plugin/config.toml";
