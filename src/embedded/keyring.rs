//! The keyring file: versions of an AES-256 key, mode 0600. It is replaced atomically, and locked during a change.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use data_encoding::HEXLOWER;
use nix::fcntl::{Flock, FlockArg, OFlag};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clock::unix_seconds;
use crate::files;

/// Largest keyring file that is read, in bytes: some thousands of versions.
const MAX_FILE: u64 = 1024 * 1024;
/// The format that this build writes and reads.
const FORMAT: u32 = 1;
/// Length of a key, in bytes.
pub(super) const KEY_BYTES: usize = 32;

/// What a keyring file holds, decoded.
#[derive(Clone)]
pub(crate) struct Keyring {
    /// A random name, so that two keyrings never share a key_id.
    pub id: String,
    pub(super) versions: BTreeMap<u32, Version>,
}

#[derive(Clone)]
pub(super) struct Version {
    pub(super) created: i64,
    pub(super) key: Zeroizing<[u8; KEY_BYTES]>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    warning: String,
    format: u32,
    id: String,
    versions: BTreeMap<u32, VersionForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VersionForm {
    created: i64,
    key: Zeroizing<String>,
}

/// Why a keyring cannot be used. The file is never changed after such an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyringError {
    /// The file cannot be opened, read or written.
    #[error("the keyring {path} cannot be {action}: {cause}")]
    Io { path: String, action: &'static str, cause: io::Error },
    /// The content is not a keyring.
    #[error(
        "the keyring {path} is damaged: {what}; restore it from a copy, or move it away to start with a new one (data under its keys is then lost)"
    )]
    Damaged { path: String, what: String },
    /// Other users can read the keys.
    #[error("the keyring {path} is open to other users (mode {mode:04o}); chmod 0600 {path}")]
    Exposed { path: String, mode: u32 },
}

impl Keyring {
    /// Reads the keyring at `path`. Creates one with a first version when there is no file.
    pub(crate) fn open(path: &Path) -> Result<Self, KeyringError> {
        match Self::read(path) {
            Err(KeyringError::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                let _lock = lock(path)?;
                // Another process may have created it meanwhile.
                if path.exists() {
                    return Self::read(path);
                }
                let mut id = [0; 8];
                random(path, &mut id)?;
                let mut keyring = Self { id: HEXLOWER.encode(&id), versions: BTreeMap::new() };
                keyring.add_version(path)?;
                keyring.write(path)?;
                Ok(keyring)
            }
            result => result,
        }
    }

    /// Adds a version to the keyring at `path`, and returns its number.
    pub(crate) fn rotate(path: &Path) -> Result<u32, KeyringError> {
        let _lock = lock(path)?;
        let mut keyring = Self::read(path)?;
        let version = keyring.add_version(path)?;
        keyring.write(path)?;
        Ok(version)
    }

    pub(crate) fn read(path: &Path) -> Result<Self, KeyringError> {
        let damaged = |what: String| KeyringError::Damaged { path: path.display().to_string(), what };
        let (file, metadata) = files::open(path).map_err(io_error(path, "opened"))?;
        if metadata.mode() & 0o077 != 0 {
            let mode = metadata.mode() & 0o7777;
            return Err(KeyringError::Exposed { path: path.display().to_string(), mode });
        }
        let content = files::read_open(file, &metadata, MAX_FILE).map_err(io_error(path, "read"))?;
        // Only the line is reported: the parser's message may quote the file.
        let form: FileForm = serde_json::from_slice(&content)
            .map_err(|error| damaged(format!("it is truncated or not a keyring (line {})", error.line())))?;
        if form.format != FORMAT {
            return Err(damaged(format!("it has format {}, this build knows {FORMAT}", form.format)));
        }
        let mut versions = BTreeMap::new();
        for (number, version) in form.versions {
            let mut key = Zeroizing::new([0; KEY_BYTES]);
            match STANDARD.decode(version.key.as_bytes()).map(Zeroizing::new) {
                Ok(bytes) if bytes.len() == KEY_BYTES => key.copy_from_slice(&bytes),
                _ => {
                    return Err(damaged(format!(
                        "the key of version {number} is not {KEY_BYTES} bytes in base64"
                    )));
                }
            }
            versions.insert(number, Version { created: version.created, key });
        }
        if versions.is_empty() || versions.contains_key(&0) {
            return Err(damaged("it has no usable version".into()));
        }
        Ok(Self { id: form.id, versions })
    }

    fn add_version(&mut self, path: &Path) -> Result<u32, KeyringError> {
        let next = self.versions.keys().next_back().map_or(1, |latest| latest.saturating_add(1));
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        random(path, &mut *key)?;
        self.versions.insert(next, Version { created: unix_seconds(), key });
        Ok(next)
    }

    /// Replaces the file. After a crash, the file is the old one or the new one, complete.
    fn write(&self, path: &Path) -> Result<(), KeyringError> {
        let form = FileForm {
            warning: "DEVELOPMENT ONLY: everybody who can read this file has the keys".into(),
            format: FORMAT,
            id: self.id.clone(),
            versions: self
                .versions
                .iter()
                .map(|(number, version)| {
                    let key = Zeroizing::new(STANDARD.encode(version.key.as_slice()));
                    (*number, VersionForm { created: version.created, key })
                })
                .collect(),
        };
        let mut text = Zeroizing::new(Vec::with_capacity(512 + 160 * form.versions.len()));
        serde_json::to_writer_pretty(&mut *text, &form).map_err(|cause| KeyringError::Io {
            path: path.display().to_string(),
            action: "written",
            cause: cause.into(),
        })?;
        files::replace(path, &text).map_err(io_error(path, "written"))
    }
}

fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> KeyringError {
    move |cause| KeyringError::Io { path: path.display().to_string(), action, cause }
}

fn random(path: &Path, bytes: &mut [u8]) -> Result<(), KeyringError> {
    rand::fill(bytes).map_err(|_| KeyringError::Io {
        path: path.display().to_string(),
        action: "extended",
        cause: io::Error::other("the system returned no random bytes"),
    })
}

/// The lock for a change of the file: two rotations at the same time must not lose a version.
fn lock(path: &Path) -> Result<Flock<File>, KeyringError> {
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(io_error(path, "created"))?;
    }
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path.with_extension("lock"))
        .map_err(io_error(path, "locked"))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, cause)| io_error(path, "locked")(cause.into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_new_keyring_is_private_and_grows_by_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/dev-keyring.json");
        let first = Keyring::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(Keyring::rotate(&path).unwrap(), 2);
        let second = Keyring::open(&path).unwrap();
        assert_eq!(first.id, second.id);
        assert_eq!(second.versions.keys().copied().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(*first.versions[&1].key, *second.versions[&1].key);
        assert_ne!(*second.versions[&1].key, *second.versions[&2].key);
    }

    #[test]
    fn a_truncated_keyring_is_refused_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dev-keyring.json");
        Keyring::open(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 1, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = Keyring::open(&path).err().unwrap().to_string();
            assert!(error.contains("damaged") && error.contains("restore"), "{error}");
            assert!(Keyring::rotate(&path).is_err());
            assert_eq!(std::fs::read(&path).unwrap(), &whole[..length], "a damaged file is never replaced");
        }
    }

    #[test]
    fn a_crash_in_the_middle_of_a_write_leaves_the_old_keyring() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dev-keyring.json");
        let keyring = Keyring::open(&path).unwrap();
        // What a crash between the write and the rename leaves: a part of a temporary file.
        std::fs::write(directory.path().join(".kms-plugin-crash"), b"{\"warning\": \"DEV").unwrap();
        assert_eq!(Keyring::open(&path).unwrap().id, keyring.id);
        assert_eq!(Keyring::rotate(&path).unwrap(), 2, "the temporary file is not used");
    }

    #[test]
    fn a_keyring_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dev-keyring.json");
        Keyring::open(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Keyring::open(&path).err().unwrap().to_string();
        assert!(error.contains("0644") && error.contains("chmod 0600"), "{error}");
    }
}
