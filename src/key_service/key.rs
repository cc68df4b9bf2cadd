//! A key of a key service: its path, its versions, and what the agent knows about it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::KeyVersions;

/// The path of a key, without an address: all addresses of a cluster have the same key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyScope {
    /// Namespace without slashes at its ends; empty for the root namespace.
    pub namespace: String,
    /// Mount path without slashes at its ends.
    pub mount: String,
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

/// A setting of a key that an administrator should change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyWarning {
    /// What is wrong, and why it matters.
    pub text: String,
    /// What to do.
    pub remedy: String,
}

/// The key service's description of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyDescription {
    /// The newest version. It wraps.
    pub latest: u32,
    /// The lowest version that may wrap; 0 means that there is no limit.
    pub min_encryption: u32,
    /// The lowest version that may unwrap.
    pub min_decryption: u32,
    /// The versions that the service shows: those from `min_decryption`. Of a longer list than is kept, the newest.
    pub versions: KeyVersions,
    /// The type, as Transit names it; empty when it is not known.
    pub key_type: Arc<str>,
    /// What an administrator should change. The agent uses the key anyway.
    pub warnings: Vec<KeyWarning>,
    /// The id of the cluster that answered; `None` if the service has none.
    pub cluster_id: Option<String>,
}

#[cfg(test)]
impl KeyDescription {
    /// A key with two versions, created 10 and 20 seconds after 1970, and without warnings: for tests.
    pub(crate) fn with_two_versions() -> Self {
        Self {
            latest: 2,
            min_encryption: 0,
            min_decryption: 1,
            versions: KeyVersions::from([(1, 10), (2, 20)]),
            key_type: "aes256-gcm96".into(),
            warnings: Vec::new(),
            cluster_id: None,
        }
    }
}

/// A key, as the agent knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownKey {
    pub scope: KeyScope,
    /// The id that Status announces.
    pub key_id: Arc<str>,
    /// The version that wraps.
    pub version: u32,
    /// When that version was created, in seconds since 1970.
    pub created: i64,
    /// The lowest version that may wrap; 0 means that there is no limit.
    pub min_encryption: u32,
    /// The lowest version that may unwrap.
    pub min_decryption: u32,
    /// The versions that were seen, also those that the service no longer shows.
    pub versions: KeyVersions,
    /// The id of the cluster that the key was last read from; `None` if the service has none.
    pub cluster_id: Option<String>,
    /// The type, as Transit names it; empty when it is not known, until the key is read.
    pub key_type: Arc<str>,
    /// What an administrator should change.
    pub warnings: Vec<KeyWarning>,
    /// The epoch of `key_id`. Decrypt accepts the ids of every epoch up to it.
    pub epoch: u32,
}

/// How a key that was read differs from the known one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyChange {
    /// It is the same key: every known version has its creation time, and the newest is not lower.
    Same,
    /// A version has another creation time: another key.
    Replaced { version: u32, before: i64, now: i64 },
    /// The newest version is lower than before.
    Lower,
}

impl KnownKey {
    /// Compares what was read with the known key.
    pub(crate) fn compare(&self, description: &KeyDescription) -> KeyChange {
        let differs = |(version, now): (u32, i64)| {
            let before = self.versions.get(version)?;
            (before != now).then_some(KeyChange::Replaced { version, before, now })
        };
        match description.versions.iter().find_map(differs) {
            Some(replaced) => replaced,
            None if description.latest < self.version => KeyChange::Lower,
            None => KeyChange::Same,
        }
    }

    /// Whether what was read has a version that is known. Without one, nothing shows that it is the same key: a server
    /// does not list versions below the minimum for decryption.
    pub(crate) fn shares_version(&self, description: &KeyDescription) -> bool {
        description.versions.iter().any(|(version, _)| self.versions.contains(version))
    }
}

/// A version of a key, with the key_id that a ciphertext was stored with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyVersion<'a> {
    pub scope: &'a KeyScope,
    pub version: u32,
    /// When that version was created, in seconds since 1970. `None` when it is not known: nothing is cached then.
    pub created: Option<i64>,
    pub key_id: &'a str,
}

impl<'a> KeyVersion<'a> {
    /// The version of `key` that wraps, with its key_id.
    pub(crate) fn of_key(key: &'a KnownKey) -> Self {
        Self { scope: &key.scope, version: key.version, created: Some(key.created), key_id: &key.key_id }
    }
}
