//! The objects in a cluster's etcd, and what each value is encrypted with.
//!
//! Only reads: never decrypts, and shows no value. Knows the format of local KEKs and EncryptionConfiguration. Must not
//! know Vault, the agent, or the caller.

pub(crate) mod etcdctl;
pub(crate) mod expected;
pub(crate) mod gateway;
pub(crate) mod group;
pub(crate) mod key;
mod range_response;
pub(crate) mod tally;
pub(crate) mod value;

#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/etcd.rs"]
pub(crate) mod fuzz;

/// Largest value that is read, in bytes. etcd's own limit is 1.5 MiB by default.
pub(crate) const MAX_VALUE: usize = 4 * 1024 * 1024;

/// Longest key that is read, in bytes: a group, a resource, a namespace and a name have at most 253 each.
const MAX_KEY: usize = 4096;

/// Receives the objects while they are read.
pub(crate) trait Sink: Send {
    /// How many objects a prefix has, where the source knows it.
    fn expect(&mut self, _objects: u64) {}

    /// One object; without a key where the source has none.
    fn object(&mut self, key: Option<&[u8]>, value: &[u8]);
}
