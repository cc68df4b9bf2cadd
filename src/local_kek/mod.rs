//! The local KEK: a key of this agent's own that wraps DEK seeds, itself wrapped by the key service.
//!
//! `format` is what lies in etcd, for ever; `record` and `group` are what lies in protected memory; `cache`
//! finds, unwraps and wipes; `list` remembers what to unwrap ahead. Knows backends; must not know gRPC, nor
//! who decides that the key service is away or refuses.

mod cache;
mod flight;
pub mod format;
mod group;
mod groups;
mod list;
mod record;
mod standing;

pub use cache::{Cache, Subject};
pub use groups::MAX_LOCKED;
pub use list::Listed;
pub use record::{Fingerprint, Kind};
pub use standing::Standing;
