//! The keys that the agent may use without asking the key service: found by their wrapped form, kept in
//! protected memory, bounded, and wiped when the key service refuses or was not reached for too long.
//!
//! Judges nothing: others tell it how the key services stand. Every key is looked at with the time of the
//! moment, so that a machine that was suspended serves nothing that is over.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use super::flight::Flights;
use super::format::Key;
use super::group::{self, Group, Owner};
use super::groups::Groups;
use super::list::{List, Listed};
use super::record::{Fingerprint, Kind, Record};
use super::standing::Standing;
use crate::backend::{KeyScope, KeyVersions};
use crate::clock::{BootTime, unix_seconds};
use crate::config::local_kek::Policy;
use crate::snapshot::{KnownKey, OfflineState};
use crate::systemd::store;

/// A version of a key, under the id that a ciphertext was stored with.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Where the key lives.
    pub scope: &'a KeyScope,
    /// Its version.
    pub version: u32,
    /// When that version was made, in seconds since 1970; `None` when that is not known: nothing is kept then.
    pub created: Option<i64>,
    /// The id.
    pub key_id: &'a str,
}

impl<'a> Subject<'a> {
    /// The version of a key that wraps, under its own id.
    pub fn of_key(key: &'a KnownKey) -> Self {
        Self { scope: &key.scope, version: key.version, created: Some(key.created), key_id: &key.key_id }
    }

    fn owner(self) -> Option<Owner> {
        Some(Owner { scope: self.scope.clone(), version: self.version, created: self.created? })
    }
}

/// The cache. One for the whole life of the agent: a reload must not lose a key.
pub struct Cache {
    inner: Mutex<Inner>,
    pub(super) flights: Flights,
    pub(super) making: tokio::sync::Mutex<()>,
    pub(super) unwraps: AtomicU64,
}

#[derive(Default)]
struct Inner {
    keys: Groups,
    list: List,
}

impl Cache {
    /// The cache of a start: with what an earlier run left with systemd, and the list of forms at `list`.
    pub fn open(kept: Vec<(String, OwnedFd)>, list: Option<PathBuf>, policy: Option<Policy>) -> Self {
        let mut groups = Vec::new();
        for (name, fd) in kept {
            match Group::adopt(name.clone(), fd) {
                // A time in the future is not of this boot.
                Ok(group) if group.contact() <= BootTime::now() => groups.push(group),
                Ok(group) => group.wipe(),
                Err(error) => {
                    tracing::warn!("{name}, which systemd kept for us, cannot be used: {error}; given up");
                    store::give_up(&name);
                }
            }
        }
        let list = list.map(List::open).unwrap_or_default();
        let inner = Inner { keys: Groups::of(groups), list };
        let cache = Self {
            inner: Mutex::new(inner),
            flights: Flights::default(),
            making: tokio::sync::Mutex::default(),
            unwraps: AtomicU64::new(0),
        };
        cache.set_policy(policy);
        cache
    }

    /// The names of what systemd keeps for us begin so.
    pub fn store_prefix() -> &'static str {
        group::NAME
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether keys are kept at all.
    pub fn is_on(&self) -> bool {
        self.lock().keys.policy.is_some()
    }

    /// Changes what is allowed. `None` wipes everything, and gives the list of forms up.
    pub fn set_policy(&self, policy: Option<Policy>) {
        let mut inner = self.lock();
        inner.keys.policy = policy;
        if policy.is_none() && !(inner.keys.is_empty() && inner.list.is_empty()) {
            inner.keys.wipe("local_kek.enabled is false", |_| true);
            inner.list.clear();
        }
    }

    /// Takes in how the key services stand at this moment, all of them, and wipes what may not be used any
    /// longer.
    pub fn settle(&self, standings: &[Standing]) {
        self.lock().keys.settle(standings);
    }

    /// Wipes the keys of key services that are not among these: they are not configured any more.
    pub fn retain(&self, standings: &[Standing]) {
        let unknown = |group: &Group| !standings.iter().any(|standing| standing.scope == group.owner.scope);
        self.lock().keys.wipe("their key service is not configured any more", unknown);
    }

    /// Whether that key service refuses us, as far as is known.
    pub(super) fn is_refused(&self, subject: Subject<'_>) -> bool {
        subject.owner().is_some_and(|owner| self.lock().keys.is_refused(&owner))
    }

    /// The key whose wrapped form this is, when it may be used now.
    pub fn find(&self, kind: Kind, key_id: &str, wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let fingerprint = Fingerprint::of(kind, key_id, wrapped);
        let mut inner = self.lock();
        let record = inner.keys.find(&fingerprint)?;
        inner.list_form(fingerprint, kind, key_id, wrapped);
        Some(record.secret)
    }

    /// Keeps what the key service has just unwrapped.
    pub(super) fn keep(&self, kind: Kind, subject: Subject<'_>, wrapped: &[u8], secret: &[u8]) {
        let fingerprint = Fingerprint::of(kind, subject.key_id, wrapped);
        let record = Record {
            kind,
            fingerprint,
            secret: Zeroizing::new(secret.to_vec()),
            wrapped: Vec::new(),
            made: 0,
            uses: 0,
        };
        self.lock().insert(subject, &record, wrapped);
    }

    /// Takes a new local KEK into use. False when it cannot be kept.
    pub(super) fn adopt(&self, subject: Subject<'_>, wrapped: &[u8], key: &Key) -> bool {
        let fingerprint = Fingerprint::of(Kind::Own, subject.key_id, wrapped);
        let record = Record {
            kind: Kind::Own,
            fingerprint,
            secret: Zeroizing::new(key.to_vec()),
            wrapped: wrapped.to_vec(),
            made: unix_seconds(),
            uses: 0,
        };
        let mut inner = self.lock();
        let kept = inner.insert(subject, &record, wrapped);
        if kept {
            inner.keys.set_current(subject.key_id, fingerprint);
        }
        kept
    }

    /// The local KEK that wraps under `key_id`, and its wrapped form, for one use. `None` when there is none,
    /// or it is used up.
    pub fn claim(&self, key_id: &str) -> Option<(Key, Vec<u8>)> {
        self.lock().keys.claim(key_id)
    }

    /// Whether the local KEK under `key_id` is missing, too old or nearly used up.
    pub fn wants_another(&self, key_id: &str) -> bool {
        let mut inner = self.lock();
        if let Some(own) = inner.keys.own(key_id) {
            inner.list_form(own.fingerprint, own.kind, key_id, &own.wrapped);
        }
        inner.keys.wants_another(key_id)
    }

    /// Whether there is a local KEK under `key_id` that may be used once more.
    pub fn is_usable(&self, key_id: &str) -> bool {
        self.lock().keys.is_usable(key_id)
    }

    /// The forms that were seen and are not unwrapped.
    pub fn missing(&self) -> Vec<Listed> {
        self.lock().missing().cloned().collect()
    }

    /// Whether the key of that form is in memory.
    pub fn has(&self, form: &Listed) -> bool {
        self.lock().keys.has(&form.fingerprint())
    }

    /// A form that was seen, of one of these versions of a key, whose key is in memory.
    pub fn sample(&self, scope: &KeyScope, versions: &KeyVersions) -> Option<Listed> {
        let inner = self.lock();
        let of_it =
            |owner: &Owner| owner.scope == *scope && versions.get(&owner.version) == Some(&owner.created);
        let mut forms = inner.list.forms();
        forms
            .find(|(fingerprint, _)| inner.keys.owner(fingerprint).is_some_and(of_it))
            .map(|(_, form)| form.clone())
    }

    /// Writes the list of forms down, when something is new.
    pub async fn save(&self) {
        let unsaved = self.lock().list.unsaved();
        let Some(unsaved) = unsaved else { return };
        let written = tokio::task::spawn_blocking(move || unsaved.write()).await;
        self.lock().list.saved(written.unwrap_or_else(|error| Err(std::io::Error::other(error))));
    }

    /// Gives a form up: nothing can unwrap it any more.
    pub fn forget(&self, form: &Listed) {
        self.lock().list.remove(&form.fingerprint());
    }

    /// The fingerprints of all keys that may be used now.
    pub fn fingerprints(&self) -> Vec<String> {
        let inner = self.lock();
        let entries = inner.keys.open().flat_map(Group::entries);
        entries.map(|(fingerprint, _)| fingerprint.hex()).collect()
    }

    /// What the faces show, with the primary's key_id; `None` when local KEKs are off.
    pub fn state(&self, key_id: Option<&str>) -> Option<OfflineState> {
        let mut inner = self.lock();
        let policy = inner.keys.policy?;
        let own = key_id.and_then(|key_id| inner.keys.own(key_id));
        let open: Vec<&Group> = inner.keys.open().collect();
        let count = |seed: bool| {
            let all = open.iter().copied().flat_map(Group::entries);
            all.filter(|(_, entry)| (entry.kind == Kind::Seed) == seed).count()
        };
        let missing = inner.missing().count();
        let usable = own.as_ref().is_some_and(|record| record.uses < policy.max_uses);
        Some(OfflineState {
            ready: usable && missing == 0 && !inner.keys.crowded,
            crowded: inner.keys.crowded,
            max_offline_seconds: policy.max_offline.as_secs(),
            until: open.iter().map(|group| group.contact().plus(policy.max_offline)).min(),
            keks: count(false),
            seeds: count(true),
            missing,
            made: own.as_ref().map(|record| record.made),
            uses: own.map_or(0, |record| record.uses),
            unwraps: self.unwraps.load(Ordering::Relaxed),
            locked: open.iter().all(|group| group.is_locked()),
            kept: store::is_there(),
        })
    }
}

impl Inner {
    /// Keeps a key, and lists its wrapped form. False when it cannot be kept.
    fn insert(&mut self, subject: Subject<'_>, record: &Record, wrapped: &[u8]) -> bool {
        let kept = subject.owner().is_some_and(|owner| self.keys.insert(&owner, record));
        if kept {
            self.list_form(record.fingerprint, record.kind, subject.key_id, wrapped);
        }
        for fingerprint in self.keys.take_evicted() {
            self.list.remove(&fingerprint);
        }
        kept
    }

    /// Lists the form of a key that is kept. Whenever it is used: an agent that was killed may have left the key
    /// with systemd, and not yet its form in the file.
    fn list_form(&mut self, fingerprint: Fingerprint, kind: Kind, key_id: &str, wrapped: &[u8]) {
        let kind = if kind == Kind::Seed { Kind::Seed } else { Kind::Kek };
        self.list.add(fingerprint, || Listed { kind, key_id: key_id.to_owned(), wrapped: wrapped.to_vec() });
    }

    /// The forms that were seen and are not unwrapped.
    fn missing(&self) -> impl Iterator<Item = &Listed> {
        self.list.forms().filter(|(fingerprint, _)| !self.keys.has(fingerprint)).map(|(_, form)| form)
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
