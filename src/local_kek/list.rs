//! The wrapped forms that were seen, in the state directory: what a fresh agent has unwrapped ahead of an
//! outage. Nothing in it is secret: all of it lies in etcd, too.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::record::{Fingerprint, Kind};
use crate::files;

/// The only format so far.
const FORMAT: u32 = 1;
/// Forms that are remembered; the oldest makes way.
const MAX_FORMS: usize = 1000;
/// Longest form that is remembered, in bytes: the longest ciphertext of the KMS API.
const MAX_FORM: usize = 1024;
/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// One wrapped form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// Whether it is of a local KEK or of a DEK seed.
    pub kind: Kind,
    /// The key_id that it was stored with.
    pub key_id: String,
    /// What the key service is asked to unwrap.
    pub wrapped: Vec<u8>,
}

impl WrappedKey {
    /// What the key service has bound it to.
    pub fn data(&self) -> Vec<u8> {
        self.kind.data(&self.key_id)
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.kind, &self.key_id, &self.wrapped)
    }
}

/// The forms, and the file that they are in.
#[derive(Default)]
pub(super) struct List {
    path: Option<PathBuf>,
    forms: VecDeque<(Fingerprint, WrappedKey)>,
    /// The same, to be asked at each Decrypt.
    known: HashSet<Fingerprint>,
    changed: bool,
    /// A failed write was told.
    told: bool,
}

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    forms: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    kind: String,
    key_id: String,
    wrapped: String,
}

impl List {
    /// Reads the list at `path`. One that cannot be read is told and begun anew: it only saves time.
    pub(super) fn open(path: PathBuf) -> Self {
        let forms = match read(&path) {
            Ok(forms) => forms,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(
                    "the list of wrapped keys {} cannot be read: {error}; it is begun anew, and what is not in it is unwrapped when it is asked for",
                    path.display()
                );
                Vec::new()
            }
        };
        let forms: VecDeque<_> = forms.into_iter().map(|form| (form.fingerprint(), form)).collect();
        let known = forms.iter().map(|(fingerprint, _)| *fingerprint).collect();
        Self { path: Some(path), forms, known, changed: false, told: false }
    }

    /// Adds a wrapped key; the oldest is evicted when the list is full. True when it is new.
    pub(super) fn add(&mut self, fingerprint: Fingerprint, form: impl FnOnce() -> WrappedKey) -> bool {
        if self.known.contains(&fingerprint) {
            return false;
        }
        let form = form();
        if form.wrapped.len() > MAX_FORM || form.key_id.len() > MAX_FORM {
            return false;
        }
        if self.forms.len() >= MAX_FORMS
            && let Some((oldest, _)) = self.forms.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.forms.push_back((fingerprint, form));
        self.known.insert(fingerprint);
        self.changed = true;
        true
    }

    pub(super) fn remove(&mut self, fingerprint: &Fingerprint) {
        if self.known.remove(fingerprint) {
            self.forms.retain(|(known, _)| known != fingerprint);
            self.changed = true;
        }
    }

    pub(super) fn forms(&self) -> impl Iterator<Item = &(Fingerprint, WrappedKey)> {
        self.forms.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// Gives the forms up, and the file.
    pub(super) fn clear(&mut self) {
        self.forms.clear();
        self.known.clear();
        self.changed = false;
        if let Some(path) = &self.path {
            // One that stays does no harm: its forms are in etcd.
            let _gone = fs::remove_file(path);
        }
    }

    /// What is to be written, when something changed since the last time.
    pub(super) fn unsaved(&mut self) -> Option<Unsaved> {
        let path = self.path.clone().filter(|_| self.changed)?;
        self.changed = false;
        Some(Unsaved { path, forms: self.forms.iter().map(|(_, form)| form.clone()).collect() })
    }

    /// How the writing went. A failure is told once, and tried again.
    pub(super) fn saved(&mut self, written: io::Result<()>) {
        let Err(error) = written else {
            self.told = false;
            return;
        };
        self.changed = true;
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                "the list of wrapped keys cannot be written: {error}; an agent that starts later is not ready for an outage until each was asked for. Look at server.state_dir"
            );
        }
    }
}

/// A list on its way to the disk: that must not hold up a call.
pub(super) struct Unsaved {
    path: PathBuf,
    forms: Vec<WrappedKey>,
}

impl Unsaved {
    /// Replaces the file, whole or not at all.
    pub(super) fn write(&self) -> io::Result<()> {
        write(&self.path, self.forms.iter())
    }
}

fn read(path: &Path) -> io::Result<Vec<WrappedKey>> {
    let file: File = serde_json::from_slice(&files::read(path, MAX_FILE)?)?;
    if file.format != FORMAT {
        return Err(io::Error::other("it is of another version of kms-plugin"));
    }
    let form = |listed: Entry| {
        let kind = if listed.kind == "seed" { Kind::Seed } else { Kind::Kek };
        let wrapped = STANDARD.decode(listed.wrapped).map_err(io::Error::other)?;
        Ok(WrappedKey { kind, key_id: listed.key_id, wrapped })
    };
    file.forms.into_iter().take(MAX_FORMS).map(form).collect()
}

fn write<'a>(path: &Path, forms: impl Iterator<Item = &'a WrappedKey>) -> io::Result<()> {
    let listed = |form: &WrappedKey| Entry {
        kind: if form.kind == Kind::Seed { "seed" } else { "kek" }.into(),
        key_id: form.key_id.clone(),
        wrapped: STANDARD.encode(&form.wrapped),
    };
    let file = File { format: FORMAT, forms: forms.map(listed).collect() };
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    files::replace(path, &serde_json::to_vec_pretty(&file)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn form(number: usize) -> WrappedKey {
        WrappedKey { kind: Kind::Kek, key_id: "v1.a".into(), wrapped: number.to_string().into_bytes() }
    }

    #[test]
    fn forms_outlive_the_process_and_the_oldest_makes_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wrapped-keys.json");
        let mut list = List::open(path.clone());
        for number in 0..=MAX_FORMS {
            list.add(form(number).fingerprint(), || form(number));
        }
        list.add(form(5).fingerprint(), || form(5));
        list.unsaved().unwrap().write().unwrap();
        let read = List::open(path.clone());
        assert_eq!(read.forms.len(), MAX_FORMS);
        assert_eq!(read.forms.front().unwrap().1, form(1));
        list.remove(&form(7).fingerprint());
        list.unsaved().unwrap().write().unwrap();
        assert_eq!(List::open(path.clone()).forms.len(), MAX_FORMS - 1);
        fs::write(&path, "{").unwrap();
        assert!(List::open(path.clone()).forms.is_empty());
        list.clear();
        assert!(!path.exists());
    }
}
