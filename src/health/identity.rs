//! The last good identity of the key, saved in the runtime directory for the next run of the agent.
//!
//! Nothing in it is secret. A later run compares the key with it. It also has the time of the last contact: an agent
//! that starts during an outage continues the old grace period.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{BootTime, boot_id};
use crate::files;
use crate::key_service::{KeyDescription, KeyScope, KeyVersions, KnownKey, MAX_VERSIONS, key_id};

const FORMAT: u32 = 1;
/// Largest file that is read and written, in bytes. The longest list of versions takes 40 bytes for each.
const MAX_FILE: u64 = 4 * 1024 * 1024;
const _: () = assert!(MAX_VERSIONS as u64 * 48 < MAX_FILE);

/// The versions of this key that an agent with this runtime directory saved, and when each was made.
pub(crate) fn saved_versions(runtime_dir: &Path, scope: &KeyScope) -> Option<KeyVersions> {
    IdentityFile::in_directory(runtime_dir).load(scope, 0).map(|(key, _)| key.versions)
}

/// `identity.json`.
#[derive(Clone, Debug)]
pub(crate) struct IdentityFile {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    format: u32,
    boot_id: Option<String>,
    scope: KeyScope,
    latest: u32,
    min_encryption: u32,
    min_decryption: u32,
    versions: KeyVersions,
    cluster_id: Option<String>,
    /// Empty in the file of an older agent.
    #[serde(default)]
    key_type: String,
    /// Milliseconds on CLOCK_BOOTTIME.
    last_contact: Option<u64>,
}

impl IdentityFile {
    pub(crate) fn in_directory(directory: &Path) -> Self {
        Self { path: directory.join("identity.json") }
    }

    /// What an earlier run saved for this key. A file that cannot be read is logged and ignored: an agent without a
    /// saved identity is better than one that does not start.
    pub(crate) fn load(&self, scope: &KeyScope, epoch: u32) -> Option<(KnownKey, Option<BootTime>)> {
        let text = match files::read(&self.path, MAX_FILE) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(
                    "the saved identity {} cannot be read: {error}; starting without it",
                    self.path.display()
                );
                return None;
            }
        };
        let saved: Saved = match serde_json::from_slice(&text) {
            Ok(saved) => saved,
            Err(error) => {
                tracing::warn!(
                    "the saved identity {} is damaged: {error}; starting without it",
                    self.path.display()
                );
                return None;
            }
        };
        if saved.format != FORMAT || saved.scope != *scope {
            return None;
        }
        let same_boot = saved.boot_id.is_some() && saved.boot_id == boot_id();
        let last_contact =
            saved.last_contact.filter(|_| same_boot).map(|millis| BootTime(Duration::from_millis(millis)));
        let description = KeyDescription {
            latest: saved.latest,
            min_encryption: saved.min_encryption,
            min_decryption: saved.min_decryption,
            versions: saved.versions.clone(),
            key_type: saved.key_type.into(),
            warnings: Vec::new(),
            cluster_id: saved.cluster_id,
        };
        let known = key_id::known_key(scope, &description, &saved.versions, epoch)?;
        // A time in the future comes from another boot, whatever the boot id says.
        Some((known, last_contact.filter(|contact| *contact <= BootTime::now())))
    }

    /// Replaces the file atomically.
    pub(crate) fn save(&self, key: &KnownKey, last_contact: Option<BootTime>) -> io::Result<()> {
        let saved = Saved {
            format: FORMAT,
            boot_id: boot_id(),
            scope: key.scope.clone(),
            latest: key.version,
            min_encryption: key.min_encryption,
            min_decryption: key.min_decryption,
            versions: key.versions.clone(),
            cluster_id: key.cluster_id.clone(),
            key_type: key.key_type.to_string(),
            last_contact: last_contact.and_then(|contact| u64::try_from(contact.0.as_millis()).ok()),
        };
        let text = serde_json::to_vec_pretty(&saved)?;
        if text.len() as u64 > MAX_FILE {
            let message = format!("it would have {} bytes, the limit is {MAX_FILE}", text.len());
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        files::replace(&self.path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_list_of_versions_is_saved_and_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let file = IdentityFile::in_directory(directory.path());
        let scope = KeyScope { namespace: "admin".into(), mount: "transit".into(), key: "k".into() };
        let versions: KeyVersions =
            (0..MAX_VERSIONS as u32).map(|version| (u32::MAX - version, i64::MIN)).collect();
        let description = KeyDescription {
            latest: u32::MAX,
            versions: versions.clone(),
            ..KeyDescription::with_two_versions()
        };
        let key = key_id::known_key(&scope, &description, &versions, 255).unwrap();
        file.save(&key, None).unwrap();
        assert_eq!(file.load(&scope, 255).unwrap().0.versions, versions);
        let huge = KnownKey { cluster_id: Some("x".repeat(MAX_FILE as usize)), ..key };
        assert_eq!(file.save(&huge, None).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(file.load(&scope, 255).is_some(), "what can be read is not replaced by what cannot");
    }

    #[test]
    fn a_saved_identity_is_loaded_for_the_same_key_only() {
        let directory = tempfile::tempdir().unwrap();
        let file = IdentityFile::in_directory(directory.path());
        let scope = KeyScope { namespace: "admin".into(), mount: "transit".into(), key: "k".into() };
        assert!(file.load(&scope, 0).is_none());
        let description = KeyDescription::with_two_versions();
        let versions = description.versions.clone();
        let key = key_id::known_key(&scope, &description, &versions, 0).unwrap();
        let contact = BootTime(Duration::from_millis(BootTime::now().0.as_millis() as u64));
        file.save(&key, Some(contact)).unwrap();
        let (loaded, last) = file.load(&scope, 0).unwrap();
        assert_eq!((loaded.key_id, loaded.versions, last), (key.key_id.clone(), versions, Some(contact)));
        let other = KeyScope { key: "other".into(), ..scope.clone() };
        assert!(file.load(&other, 0).is_none());
        let future = contact.plus(Duration::from_secs(3600));
        file.save(&key, Some(future)).unwrap();
        assert_eq!(file.load(&scope, 0).unwrap().1, None, "a time in the future is not of this boot");
        // As version 0.1.0 wrote it: later versions read it for ever. The second is from before the type was saved.
        let old = include_str!("../../tests/state/0.1.0/identity.json");
        for (text, key_type) in [(old.to_owned(), "aes256-gcm96"), (old.replace("key_type", "colour"), "")] {
            std::fs::write(&file.path, text).unwrap();
            let loaded = file.load(&scope, 0).unwrap().0;
            assert_eq!((loaded.version, &*loaded.key_type, &loaded.key_id), (2, key_type, &key.key_id));
        }
        std::fs::write(&file.path, "{\"format\": 1, ").unwrap();
        assert!(file.load(&scope, 0).is_none());
    }
}
