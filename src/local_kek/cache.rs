//! The cache of unwrapped keys: found by the fingerprint of the wrapped key, stored in protected memory, limited in
//! number, and wiped when the key service refuses or was not reached for too long.
//!
//! Makes no calls, and does not judge the health of the key services: others report it. Each lookup checks the expiry
//! with the current time, so that a machine that was suspended never uses an expired key.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use zeroize::Zeroizing;

use super::format::Key;
use super::group::{self, KeyGroup, WrappingKey};
use super::groups::KeyGroups;
use super::list::{WrappedKey, WrappedKeyList};
use super::record::{Fingerprint, KeyKind, Record};
use super::service_health::ServiceHealth;
use super::single_flight::Calls;
use super::state::LocalKekState;
use crate::clock::{BootTime, unix_seconds};
use crate::config::local_kek::Policy;
use crate::files;
use crate::key_service::{KeyScope, KeyVersion, KeyVersions};
use crate::systemd::store;

/// Deadline for writing the list of wrapped keys.
const SAVE_TIMEOUT: Duration = Duration::from_secs(30);

/// The cache. There is one for the whole life of the agent: a reload must not lose a key.
pub(crate) struct Cache {
    inner: Mutex<Inner>,
    /// The unwraps that are running.
    pub(super) calls: Calls,
    /// Held while the list is written.
    save_lock: Arc<tokio::sync::Mutex<()>>,
    /// Held while a local KEK is made: only one is made at a time.
    pub(super) prepare_lock: tokio::sync::Mutex<()>,
    /// How often `key_service_calls` asked a key service to unwrap.
    pub(super) unwraps: AtomicU64,
    /// Counts changes of the keys, of their uses and expiry, of the limits, and of the list.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    keys: KeyGroups,
    list: WrappedKeyList,
}

impl Cache {
    /// Opens the cache when the agent starts, with the descriptors that systemd held during the restart, and the path
    /// of the list of wrapped keys.
    pub(crate) fn open(
        descriptors: Vec<(String, OwnedFd)>,
        list: Option<PathBuf>,
        policy: Option<Policy>,
    ) -> Self {
        let mut groups = Vec::new();
        for (name, fd) in descriptors {
            match KeyGroup::adopt(name.clone(), fd) {
                // The clock counts from boot: a time in the future is of another boot.
                Ok(group) if group.contact() <= BootTime::now() => groups.push(group),
                Ok(group) => group.wipe(),
                Err(error) => {
                    tracing::warn!(
                        "the cached keys {name} from systemd's descriptor store cannot be used: {error}; removing them"
                    );
                    store::give_up(&name);
                }
            }
        }
        let list = list.map(WrappedKeyList::open).unwrap_or_default();
        let inner = Inner { keys: KeyGroups::of(groups), list };
        let cache = Self {
            inner: Mutex::new(inner),
            calls: Calls::default(),
            save_lock: Arc::default(),
            prepare_lock: tokio::sync::Mutex::default(),
            unwraps: AtomicU64::new(0),
            changes: watch::Sender::new(0),
        };
        cache.set_policy(policy);
        cache
    }

    /// Prefix of the names of our descriptors in systemd's descriptor store.
    pub(crate) fn store_prefix() -> &'static str {
        group::NAME_PREFIX
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports each change of the keys, of their uses and expiry, of the limits, and of the list.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn report_change(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// Whether local KEKs are on. If not, nothing is cached.
    pub(super) fn is_enabled(&self) -> bool {
        self.lock().keys.policy.is_some()
    }

    /// Changes the limits. `None` turns local KEKs off: it wipes all keys, and removes the list of wrapped keys.
    pub(crate) fn set_policy(&self, policy: Option<Policy>) {
        let mut inner = self.lock();
        inner.keys.policy = policy;
        if policy.is_none() && !(inner.keys.is_empty() && inner.list.is_empty()) {
            inner.keys.wipe("local_kek.enabled is false", |_| true);
            inner.list.clear();
        }
        drop(inner);
        // The limits are a part of the snapshot.
        self.report_change();
    }

    /// Takes the current health of all key services, and wipes the keys that may not be used any more.
    pub(crate) fn apply_health(&self, services: &[ServiceHealth]) {
        if self.lock().keys.apply_health(services) {
            self.report_change();
        }
    }

    /// Wipes the keys of all other key services: they are not configured any more.
    pub(crate) fn retain(&self, services: &[ServiceHealth]) {
        let unknown =
            |group: &KeyGroup| !services.iter().any(|service| service.scope == group.wrapping_key.scope);
        if self.lock().keys.wipe("their key service is not configured any more", unknown) {
            self.report_change();
        }
    }

    /// Whether the key service of that version refuses, as far as is known.
    pub(super) fn is_refused(&self, key_version: KeyVersion<'_>) -> bool {
        WrappingKey::of(key_version).is_some_and(|wrapping_key| self.lock().keys.is_refused(&wrapping_key))
    }

    /// Finds the unwrapped key for a wrapped key, if it may be used now.
    pub(crate) fn find(&self, kind: KeyKind, key_id: &str, wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        // In direct mode there is none, and then nothing need be hashed.
        if self.lock().keys.is_empty() {
            return None;
        }
        let fingerprint = Fingerprint::of(kind, key_id, wrapped);
        let mut inner = self.lock();
        let record = inner.keys.find(&fingerprint)?;
        let is_new = inner.add_to_list(fingerprint, kind, key_id, wrapped);
        drop(inner);
        if is_new {
            self.report_change();
        }
        Some(record.secret)
    }

    /// Caches a key that the key service has just unwrapped.
    pub(super) fn insert(&self, kind: KeyKind, key_version: KeyVersion<'_>, wrapped: &[u8], secret: &[u8]) {
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
        self.report_change();
    }

    /// Caches a new local KEK and starts to use it. Returns whether it is cached.
    pub(super) fn insert_current(&self, key_version: KeyVersion<'_>, wrapped: &[u8], key: &Key) -> bool {
        let fingerprint = Fingerprint::of(KeyKind::Current, key_version.key_id, wrapped);
        let record = Record {
            kind: KeyKind::Current,
            fingerprint,
            secret: Zeroizing::new(key.to_vec()),
            wrapped: wrapped.to_vec(),
            made: unix_seconds(),
            uses: 0,
        };
        let mut inner = self.lock();
        let cached = inner.insert(key_version, &record, wrapped);
        if cached {
            inner.keys.set_current(key_version.key_id, fingerprint);
        }
        drop(inner);
        self.report_change();
        cached
    }

    /// Notes that this local KEK was made while the key could not be read.
    pub(super) fn set_unread(&self, key_version: KeyVersion<'_>, wrapped: &[u8]) {
        let fingerprint = Fingerprint::of(KeyKind::Current, key_version.key_id, wrapped);
        self.lock().keys.set_unread(fingerprint);
    }

    /// The key was read: a local KEK that was made without that needs a replacement.
    pub(super) fn key_was_read(&self) {
        self.lock().keys.key_was_read();
    }

    /// Takes the local KEK in use under `key_id`, and the same key wrapped, for one use, which is counted. `None`
    /// when there is none, or it has no uses left.
    pub(crate) fn use_current(&self, key_id: &str) -> Option<(Key, Vec<u8>)> {
        let current = self.lock().keys.use_current(key_id);
        if current.is_some() {
            self.report_change();
        }
        current
    }

    /// Whether the local KEK in use under `key_id` must be replaced: see [`KeyGroups::needs_replacement`].
    pub(crate) fn needs_replacement(&self, key_id: &str) -> bool {
        let mut inner = self.lock();
        let mut is_new = false;
        if let Some(current) = inner.keys.current(key_id) {
            is_new = inner.add_to_list(current.fingerprint, current.kind, key_id, &current.wrapped);
        }
        let needed = inner.keys.needs_replacement(key_id);
        drop(inner);
        if is_new {
            self.report_change();
        }
        needed
    }

    /// Whether the local KEK in use under `key_id` has uses left.
    pub(crate) fn is_usable(&self, key_id: &str) -> bool {
        self.lock().keys.is_usable(key_id)
    }

    /// The time until the local KEK in use under `key_id` is too old, at least one second; `None` when there is none.
    pub(crate) fn replacement_due(&self, key_id: &str) -> Option<Duration> {
        self.lock().keys.replacement_due(key_id)
    }

    /// When the first cached key expires, unless its key service answers before; `None` without keys.
    pub(crate) fn next_expiry(&self) -> Option<BootTime> {
        self.lock().keys.next_expiry()
    }

    /// The listed wrapped keys that are not in memory.
    pub(crate) fn missing(&self) -> Vec<WrappedKey> {
        self.lock().missing().cloned().collect()
    }

    /// Whether a key is in memory.
    pub(super) fn contains(&self, key: &WrappedKey) -> bool {
        self.lock().keys.contains(&key.fingerprint())
    }

    /// One listed wrapped key that is in memory, and that one of these versions has wrapped.
    pub(super) fn sample(&self, scope: &KeyScope, versions: &KeyVersions) -> Option<WrappedKey> {
        let inner = self.lock();
        let matches = |wrapping_key: &WrappingKey| {
            wrapping_key.scope == *scope && versions.get(wrapping_key.version) == Some(wrapping_key.created)
        };
        let mut listed = inner.list.iter();
        listed
            .find(|(fingerprint, _)| inner.keys.wrapping_key(fingerprint).is_some_and(matches))
            .map(|(_, key)| key.clone())
    }

    /// Removes a key from the list: no key service can unwrap it any more.
    pub(crate) fn forget(&self, key: &WrappedKey) {
        self.lock().list.remove(&key.fingerprint());
        self.report_change();
    }

    /// Copies of the descriptors that systemd would hold while the agent restarts.
    #[cfg(test)]
    pub(crate) fn descriptors(&self) -> Vec<(String, OwnedFd)> {
        self.lock().keys.descriptors()
    }

    /// Writes the list of wrapped keys, if it has changed. Returns false when it could not be written.
    ///
    /// One writer at a time: an older copy must not replace a newer one, and a disk that hangs must hold one thread only.
    /// The result is recorded also when nobody waits for it any more.
    pub(crate) async fn save(self: &Arc<Self>) -> bool {
        let waiting = tokio::time::timeout(SAVE_TIMEOUT, self.save_lock.clone().lock_owned());
        let Ok(writing) = waiting.await else { return false };
        let cache = self.clone();
        let write = move || {
            let _writing = writing;
            let Some(copy) = cache.lock().list.take_changed() else { return Ok(true) };
            let result = copy.write();
            let saved = result.is_ok();
            cache.lock().list.written(result);
            Ok(saved)
        };
        files::in_time(SAVE_TIMEOUT, write).await.unwrap_or(false)
    }

    /// The fingerprints of all keys that may be used now, as hexadecimal digits.
    pub(crate) fn fingerprints(&self) -> Vec<String> {
        let inner = self.lock();
        let entries = inner.keys.usable().flat_map(KeyGroup::entries);
        entries.map(|(fingerprint, _)| fingerprint.hex()).collect()
    }

    /// How many keys under this Transit key are in memory, and its key service refuses.
    #[cfg(test)]
    pub(crate) fn refused(&self, key: &str) -> usize {
        self.lock().keys.refused(key)
    }

    /// The state for the snapshot, with the primary's `key_id`; `None` when local KEKs are off.
    pub(crate) fn state(&self, key_id: Option<&str>) -> Option<LocalKekState> {
        let mut inner = self.lock();
        let policy = inner.keys.policy?;
        let current = key_id.and_then(|key_id| inner.keys.current(key_id));
        let usable: Vec<&KeyGroup> = inner.keys.usable().collect();
        let count = |seeds: bool| {
            let entries = usable.iter().copied().flat_map(KeyGroup::entries);
            entries.filter(|(_, entry)| (entry.kind == KeyKind::Seed) == seeds).count()
        };
        let missing = inner.missing().count();
        let can_wrap = current.as_ref().is_some_and(|record| record.uses < policy.max_uses);
        Some(LocalKekState {
            ready: can_wrap && missing == 0 && !inner.keys.has_evicted,
            evicted: inner.keys.has_evicted,
            max_offline_seconds: policy.max_offline.as_secs(),
            until: usable.iter().map(|group| group.contact().plus(policy.max_offline)).min(),
            keks: count(false),
            seeds: count(true),
            missing,
            made: current.as_ref().map(|record| record.made),
            uses: current.map_or(0, |record| record.uses),
            unwraps: self.unwraps.load(Ordering::Relaxed),
            locked: usable.iter().all(|group| group.is_locked()),
            held_by_systemd: store::is_there(),
        })
    }
}

impl Inner {
    /// Caches a key, and adds it to the list of wrapped keys. Returns whether it is cached.
    fn insert(&mut self, key_version: KeyVersion<'_>, record: &Record, wrapped: &[u8]) -> bool {
        let wrapping_key = WrappingKey::of(key_version);
        let cached = wrapping_key.is_some_and(|wrapping_key| self.keys.insert(&wrapping_key, record));
        if cached {
            self.add_to_list(record.fingerprint, record.kind, key_version.key_id, wrapped);
        }
        for fingerprint in self.keys.take_evicted() {
            self.list.remove(&fingerprint);
        }
        cached
    }

    /// Adds a cached key to the list of wrapped keys, at each use: an agent that was killed may have cached the key,
    /// but not have written the list yet. Returns whether it is new in the list.
    fn add_to_list(&mut self, fingerprint: Fingerprint, kind: KeyKind, key_id: &str, wrapped: &[u8]) -> bool {
        let kind = if kind == KeyKind::Seed { KeyKind::Seed } else { KeyKind::Kek };
        self.list.add(fingerprint, || WrappedKey {
            kind,
            key_id: key_id.to_owned(),
            wrapped: wrapped.to_vec(),
        })
    }

    /// The listed wrapped keys that are not in memory.
    fn missing(&self) -> impl Iterator<Item = &WrappedKey> {
        self.list.iter().filter(|(fingerprint, _)| !self.keys.contains(fingerprint)).map(|(_, key)| key)
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
