//! The local KEK: a key that this agent generates and that wraps DEK seeds. The key service wraps the local KEK.
//!
//! - `format`: the ciphertext and the annotation in etcd. The format never changes.
//! - `cache`: the local KEKs and DEK seeds in memory. It finds, evicts and wipes them.
//! - `groups`, `group`, `record`, `sealed_memory`: how the cached keys lie in protected memory.
//! - `key_service_calls`, `single_flight`: the calls to the key service, one for all callers that need the same key.
//! - `prefetch`, `key_check`: calls that are made before a key is needed.
//! - `list`: which keys to prefetch after a restart.
//! - `service_health`: what the cache is told about the key services. `state`: what the snapshot shows of the cache.
//!
//! Knows key services. Must not know gRPC, nor decide whether a key service is unreachable or refuses.

mod cache;
pub mod format;
mod group;
mod groups;
mod key_check;
mod key_service_calls;
mod list;
mod prefetch;
mod record;
mod sealed_memory;
mod service_health;
mod single_flight;
mod state;

#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/local_kek.rs"]
pub(crate) mod fuzz;

pub(crate) use cache::Cache;
pub(crate) use groups::MAX_LOCKED;
pub(crate) use key_check::{CALL_TIMEOUT, KeyCheck};
pub(crate) use list::WrappedKey;
pub(crate) use prefetch::{Candidate, Prefetched, prefetch};
pub(crate) use record::{Fingerprint, KeyKind};
pub(crate) use service_health::ServiceHealth;
pub(crate) use state::LocalKekState;
