//! The list of wrapped keys that the agent has seen, in a file in the state directory: the keys that a restarted
//! agent prefetches. Nothing in it is secret: etcd holds the same.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::record::{Fingerprint, KeyKind};
use crate::files;

/// The only file format so far.
const FORMAT: u32 = 1;
/// Wrapped keys in the list. A new one then replaces the oldest.
const MAX_KEYS: usize = 1000;
/// Longest wrapped key and key_id in the list, in bytes: the longest ciphertext of the KMS API.
const MAX_LENGTH: usize = 1024;
/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// A wrapped key, as it lies in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WrappedKey {
    /// Whether a local KEK or a DEK seed is wrapped.
    pub kind: KeyKind,
    /// The key_id that it was stored with.
    pub key_id: String,
    /// The ciphertext that the key service unwraps.
    pub wrapped: Vec<u8>,
}

impl WrappedKey {
    /// The AAD that the key service needs to unwrap it.
    pub(crate) fn aad(&self) -> Vec<u8> {
        self.kind.aad(&self.key_id)
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.kind, &self.key_id, &self.wrapped)
    }
}

/// The list, and the path of its file.
#[derive(Default)]
pub(super) struct WrappedKeyList {
    path: Option<PathBuf>,
    keys: VecDeque<(Fingerprint, WrappedKey)>,
    /// The fingerprints of `keys`: each Decrypt looks one up.
    fingerprints: HashSet<Fingerprint>,
    changed: bool,
    write_failure_reported: bool,
}

/// The content of the file.
#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    #[serde(rename = "forms")]
    keys: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    kind: String,
    key_id: String,
    wrapped: String,
}

impl WrappedKeyList {
    /// Reads the list at `path`. If it cannot be read, the agent logs that and starts a new list: without the old
    /// one it only prefetches less.
    pub(super) fn open(path: PathBuf) -> Self {
        let keys = match read(&path) {
            Ok(keys) => keys,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(
                    "the list of wrapped keys {} cannot be read: {error}; starting a new list. Keys that were only in the old list are unwrapped when they are needed",
                    path.display()
                );
                Vec::new()
            }
        };
        let keys: VecDeque<_> = keys.into_iter().map(|key| (key.fingerprint(), key)).collect();
        let fingerprints = keys.iter().map(|(fingerprint, _)| *fingerprint).collect();
        Self { path: Some(path), keys, fingerprints, changed: false, write_failure_reported: false }
    }

    /// Adds a wrapped key. A full list loses its oldest one. Returns whether the key is new.
    pub(super) fn add(&mut self, fingerprint: Fingerprint, key: impl FnOnce() -> WrappedKey) -> bool {
        if self.fingerprints.contains(&fingerprint) {
            return false;
        }
        let key = key();
        if key.wrapped.len() > MAX_LENGTH || key.key_id.len() > MAX_LENGTH {
            return false;
        }
        if self.keys.len() >= MAX_KEYS
            && let Some((oldest, _)) = self.keys.pop_front()
        {
            self.fingerprints.remove(&oldest);
        }
        self.keys.push_back((fingerprint, key));
        self.fingerprints.insert(fingerprint);
        self.changed = true;
        true
    }

    pub(super) fn remove(&mut self, fingerprint: &Fingerprint) {
        if self.fingerprints.remove(fingerprint) {
            self.keys.retain(|(listed, _)| listed != fingerprint);
            self.changed = true;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(Fingerprint, WrappedKey)> {
        self.keys.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Empties the list and removes the file.
    pub(super) fn clear(&mut self) {
        self.keys.clear();
        self.fingerprints.clear();
        self.changed = false;
        if let Some(path) = &self.path {
            // A file that cannot be removed does no harm: etcd holds the same wrapped keys.
            let _gone = fs::remove_file(path);
        }
    }

    /// A copy of the list to write, if the list changed since the last copy.
    pub(super) fn take_changed(&mut self) -> Option<ListCopy> {
        let path = self.path.clone().filter(|_| self.changed)?;
        self.changed = false;
        Some(ListCopy { path, keys: self.keys.iter().map(|(_, key)| key.clone()).collect() })
    }

    /// Takes the result of writing a copy. The first of several failures is logged; the caller retries.
    pub(super) fn written(&mut self, result: io::Result<()>) {
        let Err(error) = result else {
            self.write_failure_reported = false;
            return;
        };
        self.changed = true;
        if !std::mem::replace(&mut self.write_failure_reported, true) {
            tracing::warn!(
                "the list of wrapped keys cannot be written: {error}; retrying. Without the list, a restarted agent can unwrap a key in an outage only if the key was requested after the restart. Check server.state_dir"
            );
        }
    }
}

/// A copy of the list. It is written without the cache's lock: a slow disk must not delay a call.
pub(super) struct ListCopy {
    path: PathBuf,
    keys: Vec<WrappedKey>,
}

impl ListCopy {
    /// Replaces the file atomically.
    pub(super) fn write(&self) -> io::Result<()> {
        write(&self.path, self.keys.iter())
    }
}

fn read(path: &Path) -> io::Result<Vec<WrappedKey>> {
    let file: File = serde_json::from_slice(&files::read(path, MAX_FILE)?)?;
    if file.format != FORMAT {
        return Err(io::Error::other("another version of kms-plugin wrote it"));
    }
    let key = |entry: Entry| {
        let kind = if entry.kind == "seed" { KeyKind::Seed } else { KeyKind::Kek };
        let wrapped = STANDARD.decode(entry.wrapped).map_err(io::Error::other)?;
        Ok(WrappedKey { kind, key_id: entry.key_id, wrapped })
    };
    file.keys.into_iter().take(MAX_KEYS).map(key).collect()
}

fn write<'a>(path: &Path, keys: impl Iterator<Item = &'a WrappedKey>) -> io::Result<()> {
    let entry = |key: &WrappedKey| Entry {
        kind: if key.kind == KeyKind::Seed { "seed" } else { "kek" }.into(),
        key_id: key.key_id.clone(),
        wrapped: STANDARD.encode(&key.wrapped),
    };
    let file = File { format: FORMAT, keys: keys.map(entry).collect() };
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    files::replace(path, &serde_json::to_vec_pretty(&file)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(number: usize) -> WrappedKey {
        WrappedKey { kind: KeyKind::Kek, key_id: "v1.a".into(), wrapped: number.to_string().into_bytes() }
    }

    #[test]
    fn the_list_survives_a_restart_and_a_full_list_loses_its_oldest_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wrapped-keys.json");
        let mut list = WrappedKeyList::open(path.clone());
        for number in 0..=MAX_KEYS {
            list.add(key(number).fingerprint(), || key(number));
        }
        list.add(key(5).fingerprint(), || key(5));
        list.take_changed().unwrap().write().unwrap();
        let read = WrappedKeyList::open(path.clone());
        assert_eq!(read.keys.len(), MAX_KEYS);
        assert_eq!(read.keys.front().unwrap().1, key(1));
        list.remove(&key(7).fingerprint());
        list.take_changed().unwrap().write().unwrap();
        assert_eq!(WrappedKeyList::open(path.clone()).keys.len(), MAX_KEYS - 1);
        fs::write(&path, "{").unwrap();
        assert!(WrappedKeyList::open(path.clone()).keys.is_empty());
        list.clear();
        assert!(!path.exists());
    }

    /// An older or newer agent reads the same file.
    #[test]
    fn the_file_format_is_stable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wrapped-keys.json");
        write(&path, [key(1)].iter()).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let entry = serde_json::json!({ "kind": "kek", "key_id": "v1.a", "wrapped": "MQ==" });
        assert_eq!(json, serde_json::json!({ "format": 1, "forms": [entry] }));
    }
}
