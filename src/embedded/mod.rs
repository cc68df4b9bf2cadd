//! A keyring in a file, for `dev` and for tests: the same promises as a key service, no protection.
//!
//! Must not know gRPC or Vault. Whoever reads the file has the keys: never for production.

mod backend;
mod keyring;

pub use backend::EmbeddedBackend;
pub use keyring::{Keyring, KeyringError};
