//! The seam between the key services and everything above: the trait, its types and errors, and key_id.
//!
//! Must not know gRPC, HTTP, or any service.

mod error;
mod key;
pub(crate) mod key_id;
mod service;
mod state;

pub(crate) use error::{ErrorKind, KeyServiceError};
pub(crate) use key::{KeyDescription, KeyScope, KeyVersion, KeyVersions, KeyWarning, KnownKey};
pub(crate) use service::KeyService;
pub(crate) use state::{AddressState, TokenState};
