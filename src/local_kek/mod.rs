//! The local KEK: a key of this agent's own that wraps DEK seeds, itself wrapped by the key service.
//!
//! `format` is what lies in etcd, for ever; `record` and `group` are what lies in protected memory; `cache` finds,
//! evicts and wipes; `single_flight` calls the key service for it; `prefetch` and `key_check` call ahead of need; `list`
//! remembers what to prefetch after a restart. Knows key services; must not know gRPC, nor who decides that a key
//! service is away or refuses.

mod cache;
pub mod format;
mod group;
mod groups;
mod key_check;
mod list;
mod memory;
mod prefetch;
mod record;
mod service_health;
mod single_flight;
mod state;

pub(crate) use cache::Cache;
pub(crate) use groups::MAX_LOCKED;
pub(crate) use key_check::KeyCheck;
pub(crate) use list::WrappedKey;
pub(crate) use prefetch::{Candidate, Prefetched, prefetch};
pub(crate) use record::{Fingerprint, Kind};
pub(crate) use service_health::ServiceHealth;
pub(crate) use state::LocalKekState;
