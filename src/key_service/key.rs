//! A key of a key service: where it lives, its versions, and what the agent knows of it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Where a key lives, without the address: two addresses of one cluster hold the same key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyScope {
    /// Namespace without slashes at its ends; empty for the root namespace.
    pub namespace: String,
    /// Mount path without slashes at its ends.
    pub mount: String,
    /// Name of the key.
    pub key: String,
}

impl fmt::Display for KeyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}/keys/{}", self.mount, self.key)
    }
}

/// Versions of a key and when each was made, in seconds since 1970 as the service tells it.
pub(crate) type KeyVersions = BTreeMap<u32, i64>;

/// Something about a key that an administrator should change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyWarning {
    /// What is wrong, and why it matters.
    pub text: String,
    /// What to do about it.
    pub remedy: String,
}

/// What the key service says of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDescription {
    /// The version that wraps from now on.
    pub latest: u32,
    /// The lowest version that may still wrap; 0 when only the latest is meant.
    pub min_encryption: u32,
    /// The lowest version that may still unwrap.
    pub min_decryption: u32,
    /// The versions that the service still shows.
    pub versions: KeyVersions,
    /// What an administrator should change about the key; it is used all the same.
    pub warnings: Vec<KeyWarning>,
    /// Which cluster answered, where the service has such an id.
    pub cluster_id: Option<String>,
}

/// A key as this agent knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// Where it lives.
    pub scope: KeyScope,
    /// The id that Status announces.
    pub key_id: Arc<str>,
    /// The version that wraps.
    pub version: u32,
    /// When that version was made, in seconds since 1970.
    pub created: i64,
    /// The lowest version that may still wrap; 0 when only the latest is meant.
    pub min_encryption: u32,
    /// The lowest version that may still unwrap.
    pub min_decryption: u32,
    /// Every version ever seen, also those that the service no longer shows.
    pub versions: KeyVersions,
    /// The cluster that it was last read from, where the service has such an id.
    pub cluster_id: Option<String>,
    /// What should be changed about the key.
    pub warnings: Vec<KeyWarning>,
    /// The version of each acceptable key_id.
    pub ids: Arc<HashMap<String, u32>>,
}

/// A version of a key, under the id that a ciphertext was stored with.
#[derive(Clone, Copy, Debug)]
pub struct KeyVersion<'a> {
    /// Where the key lives.
    pub scope: &'a KeyScope,
    /// Its version.
    pub version: u32,
    /// When that version was made, in seconds since 1970; `None` when that is not known: nothing is kept then.
    pub created: Option<i64>,
    /// The id.
    pub key_id: &'a str,
}

impl<'a> KeyVersion<'a> {
    /// The version of a key that wraps, under its own id.
    pub fn of_key(key: &'a KnownKey) -> Self {
        Self { scope: &key.scope, version: key.version, created: Some(key.created), key_id: &key.key_id }
    }
}
