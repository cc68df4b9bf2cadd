//! The interface of a key service: the trait `KeyService`, its types and errors, and key_id.
//!
//! Must not know gRPC, HTTP, or a particular key service.

mod error;
mod key;
pub(crate) mod key_id;
mod service;
mod state;
mod versions;

pub(crate) use error::{ErrorKind, KeyServiceError};
pub(crate) use key::{KeyChange, KeyDescription, KeyScope, KeyVersion, KeyWarning, KnownKey};
pub(crate) use service::KeyService;
pub(crate) use state::{AddressState, TokenState};
pub(crate) use versions::{KeyVersions, MAX_VERSIONS, ShownVersions};
