//! The keys that the agent may use without asking the key service: found by their wrapped form, kept in
//! protected memory, bounded, and wiped when the key service refuses or was not reached for too long.
//!
//! Judges nothing: others tell it how the key services stand. Every key is looked at with the time of the
//! moment, so that a machine that was suspended serves nothing that is over.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use std::time::Duration;

use tokio::sync::watch;
use zeroize::Zeroizing;

use super::format::Key;
use super::group::{self, Group, Owner};
use super::groups::Groups;
use super::list::{List, WrappedKey};
use super::record::{Fingerprint, Kind, Record};
use super::service_health::ServiceHealth;
use super::single_flight::SingleFlight;
use super::state::LocalKekState;
use crate::clock::{BootTime, unix_seconds};
use crate::config::local_kek::Policy;
use crate::files;
use crate::key_service::{KeyScope, KeyVersion, KeyVersions};
use crate::systemd::store;

/// Time to write the list of wrapped keys.
const SAVE_TIMEOUT: Duration = Duration::from_secs(30);

/// The cache. One for the whole life of the agent: a reload must not lose a key.
pub struct Cache {
    inner: Mutex<Inner>,
    pub(super) calls: SingleFlight,
    pub(super) making: tokio::sync::Mutex<()>,
    pub(super) unwraps: AtomicU64,
    /// Counts changes: of the keys, their uses, and the list.
    changes: watch::Sender<u64>,
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
            calls: SingleFlight::default(),
            making: tokio::sync::Mutex::default(),
            unwraps: AtomicU64::new(0),
            changes: watch::Sender::new(0),
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

    /// Told of each change of the keys, of their uses, and of the list.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn changed(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
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
            drop(inner);
            self.changed();
        }
    }

    /// Takes in how the key services stand at this moment, all of them, and wipes what may not be used any
    /// longer.
    pub fn settle(&self, services: &[ServiceHealth]) {
        if self.lock().keys.settle(services) {
            self.changed();
        }
    }

    /// Wipes the keys of key services that are not among these: they are not configured any more.
    pub fn retain(&self, services: &[ServiceHealth]) {
        let unknown = |group: &Group| !services.iter().any(|standing| standing.scope == group.owner.scope);
        if self.lock().keys.wipe("their key service is not configured any more", unknown) {
            self.changed();
        }
    }

    /// Whether that key service refuses us, as far as is known.
    pub(super) fn is_refused(&self, key_version: KeyVersion<'_>) -> bool {
        Owner::of(key_version).is_some_and(|owner| self.lock().keys.is_refused(&owner))
    }

    /// The key whose wrapped form this is, when it may be used now.
    pub fn find(&self, kind: Kind, key_id: &str, wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let fingerprint = Fingerprint::of(kind, key_id, wrapped);
        let mut inner = self.lock();
        let record = inner.keys.find(&fingerprint)?;
        let is_new = inner.list_form(fingerprint, kind, key_id, wrapped);
        drop(inner);
        if is_new {
            self.changed();
        }
        Some(record.secret)
    }

    /// Keeps what the key service has just unwrapped.
    pub(super) fn keep(&self, kind: Kind, key_version: KeyVersion<'_>, wrapped: &[u8], secret: &[u8]) {
        let fingerprint = Fingerprint::of(kind, key_version.key_id, wrapped);
        let record = Record {
            kind,
            fingerprint,
            secret: Zeroizing::new(secret.to_vec()),
            wrapped: Vec::new(),
            made: 0,
            uses: 0,
        };
        self.lock().insert(key_version, &record, wrapped);
        self.changed();
    }

    /// Takes a new local KEK into use. False when it cannot be kept.
    pub(super) fn adopt(&self, key_version: KeyVersion<'_>, wrapped: &[u8], key: &Key) -> bool {
        let fingerprint = Fingerprint::of(Kind::Own, key_version.key_id, wrapped);
        let record = Record {
            kind: Kind::Own,
            fingerprint,
            secret: Zeroizing::new(key.to_vec()),
            wrapped: wrapped.to_vec(),
            made: unix_seconds(),
            uses: 0,
        };
        let mut inner = self.lock();
        let kept = inner.insert(key_version, &record, wrapped);
        if kept {
            inner.keys.set_current(key_version.key_id, fingerprint);
        }
        drop(inner);
        self.changed();
        kept
    }

    /// The local KEK that wraps under `key_id`, and its wrapped form, for one use. `None` when there is none,
    /// or it is used up.
    pub fn claim(&self, key_id: &str) -> Option<(Key, Vec<u8>)> {
        let claimed = self.lock().keys.claim(key_id);
        if claimed.is_some() {
            self.changed();
        }
        claimed
    }

    /// Whether the local KEK under `key_id` is missing, too old or nearly used up.
    pub fn needs_replacement(&self, key_id: &str) -> bool {
        let mut inner = self.lock();
        if let Some(own) = inner.keys.own(key_id) {
            inner.list_form(own.fingerprint, own.kind, key_id, &own.wrapped);
        }
        inner.keys.needs_replacement(key_id)
    }

    /// Whether there is a local KEK under `key_id` that may be used once more.
    pub fn is_usable(&self, key_id: &str) -> bool {
        self.lock().keys.is_usable(key_id)
    }

    /// The forms that were seen and are not unwrapped.
    pub fn missing(&self) -> Vec<WrappedKey> {
        self.lock().missing().cloned().collect()
    }

    /// Whether the key of that form is in memory.
    pub fn has(&self, form: &WrappedKey) -> bool {
        self.lock().keys.has(&form.fingerprint())
    }

    /// A form that was seen, of one of these versions of a key, whose key is in memory.
    pub fn sample(&self, scope: &KeyScope, versions: &KeyVersions) -> Option<WrappedKey> {
        let inner = self.lock();
        let of_it =
            |owner: &Owner| owner.scope == *scope && versions.get(&owner.version) == Some(&owner.created);
        let mut forms = inner.list.forms();
        forms
            .find(|(fingerprint, _)| inner.keys.owner(fingerprint).is_some_and(of_it))
            .map(|(_, form)| form.clone())
    }

    /// Saves the list of wrapped keys, when something is new. False when it could not be written.
    pub async fn save(&self) -> bool {
        let unsaved = self.lock().list.unsaved();
        let Some(unsaved) = unsaved else { return true };
        let written = files::in_time(SAVE_TIMEOUT, move || unsaved.write()).await;
        let saved = written.is_ok();
        self.lock().list.saved(written);
        saved
    }

    /// When the first of the keys may not be used any longer, unless its key service answers before; `None` without
    /// keys.
    pub fn next_expiry(&self) -> Option<BootTime> {
        self.lock().keys.next_expiry()
    }

    /// How long the local KEK under `key_id` is young enough; `None` when there is none.
    pub fn replacement_due(&self, key_id: &str) -> Option<Duration> {
        self.lock().keys.replacement_due(key_id)
    }

    /// Gives a form up: nothing can unwrap it any more.
    pub fn forget(&self, form: &WrappedKey) {
        self.lock().list.remove(&form.fingerprint());
        self.changed();
    }

    /// The fingerprints of all keys that may be used now.
    pub fn fingerprints(&self) -> Vec<String> {
        let inner = self.lock();
        let entries = inner.keys.open().flat_map(Group::entries);
        entries.map(|(fingerprint, _)| fingerprint.hex()).collect()
    }

    /// What the faces show, with the primary's key_id; `None` when local KEKs are off.
    pub fn state(&self, key_id: Option<&str>) -> Option<LocalKekState> {
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
        Some(LocalKekState {
            ready: usable && missing == 0 && !inner.keys.has_evicted,
            evicted: inner.keys.has_evicted,
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
    fn insert(&mut self, key_version: KeyVersion<'_>, record: &Record, wrapped: &[u8]) -> bool {
        let kept = Owner::of(key_version).is_some_and(|owner| self.keys.insert(&owner, record));
        if kept {
            self.list_form(record.fingerprint, record.kind, key_version.key_id, wrapped);
        }
        for fingerprint in self.keys.take_evicted() {
            self.list.remove(&fingerprint);
        }
        kept
    }

    /// Lists the form of a key that is kept. Whenever it is used: an agent that was killed may have left the key
    /// with systemd, and not yet its form in the file.
    /// True when it is new.
    fn list_form(&mut self, fingerprint: Fingerprint, kind: Kind, key_id: &str, wrapped: &[u8]) -> bool {
        let kind = if kind == Kind::Seed { Kind::Seed } else { Kind::Kek };
        self.list.add(fingerprint, || WrappedKey {
            kind,
            key_id: key_id.to_owned(),
            wrapped: wrapped.to_vec(),
        })
    }

    /// The forms that were seen and are not unwrapped.
    fn missing(&self) -> impl Iterator<Item = &WrappedKey> {
        self.list.forms().filter(|(fingerprint, _)| !self.keys.has(fingerprint)).map(|(_, form)| form)
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
