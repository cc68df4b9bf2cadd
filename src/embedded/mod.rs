//! A key service with its keys in a file, for `dev` and for tests.
//!
//! Must not know gRPC or Vault. Everybody who can read the file has the keys: never use it in production.

mod keyring;
mod service;

pub(crate) use keyring::{Keyring, KeyringError};
pub(crate) use service::EmbeddedService;
