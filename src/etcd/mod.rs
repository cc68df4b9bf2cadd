//! What lies in a cluster's etcd: which objects, and what each value is encrypted with.
//!
//! Reads only, never decrypts, and shows no value to anybody. Knows what a local KEK leaves
//! there; must not know Vault, the agent, or who asks.

pub(crate) mod client;
pub(crate) mod group;
pub(crate) mod key;
mod range;
pub(crate) mod reader;
mod split;
pub(crate) mod tally;
pub(crate) mod value;

/// Largest value that is read, in bytes. etcd itself takes 1.5 MiB unless told otherwise.
pub(crate) const MAX_VALUE: usize = 4 * 1024 * 1024;

/// Longest key that is read, in bytes: a group, a resource, a namespace and a name have 253 each.
const MAX_KEY: usize = 4096;

/// Takes the objects as they are read.
pub(crate) trait Sink: Send {
    /// How many objects a prefix has, where the source tells it.
    fn expect(&mut self, _objects: u64) {}

    /// One object; without a key where the source does not tell it.
    fn object(&mut self, key: Option<&[u8]>, value: &[u8]);
}
