//! A keyring in a file, for `dev` and for tests: the same promises as a key service, no protection.
//!
//! Must not know gRPC or Vault. Whoever reads the file has the keys: never for production.

mod keyring;
mod service;

pub(crate) use keyring::{Keyring, KeyringError};
pub(crate) use service::EmbeddedService;
