//! The seam between the key services and everything above: the trait, its types and errors, and key_id.
//!
//! Must not know gRPC, HTTP, or any service.

mod error;
mod key;
pub mod key_id;
mod service;
mod state;

pub use error::{ErrorKind, KeyServiceError};
pub use key::{KeyDescription, KeyScope, KeyVersion, KeyVersions, KeyWarning, KnownKey};
pub use service::KeyService;
pub use state::{AddressState, TokenState};
