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

use super::format::{KEY_BYTES, Key};
use super::group::{self, Group};
use super::list::{List, Listed};
use super::record::{Fingerprint, Kind, Record};
use crate::backend::KeyScope;
use crate::clock::{BootTime, unix_seconds};
use crate::config::local_kek::Policy;
use crate::snapshot::OfflineState;
use crate::systemd::store;

/// Versions of keys that are kept at once, each with room for a thousand keys; the one that was not wanted for
/// longest makes way.
const MAX_GROUPS: usize = 16;

/// How a key service stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where its key lives.
    pub scope: KeyScope,
    /// Its last good answer; `None` when there was none, or it is in doubt.
    pub contact: Option<BootTime>,
    /// Whether it refuses us beyond doubt.
    pub refuses: bool,
    /// The lowest version of its key that still unwraps.
    pub min_version: u32,
}

/// A version of a key, under the id that a ciphertext was stored with.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Where the key lives.
    pub scope: &'a KeyScope,
    /// Its version.
    pub version: u32,
    /// The id.
    pub key_id: &'a str,
}

/// The cache. One for the whole life of the agent: a reload must not lose a key.
pub struct Cache {
    inner: Mutex<Inner>,
    pub(super) flights: [tokio::sync::Mutex<()>; 16],
    pub(super) making: tokio::sync::Mutex<()>,
    pub(super) unwraps: AtomicU64,
}

#[derive(Default)]
struct Inner {
    policy: Option<Policy>,
    groups: Vec<Group>,
    /// The key services that refuse.
    refusing: Vec<KeyScope>,
    /// The fingerprint of the local KEK that wraps under a key_id.
    current: Vec<(String, Fingerprint)>,
    list: List,
    /// Counts what is wanted: the order of last use.
    count: u64,
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
        let inner = Inner { groups, list, ..Inner::default() };
        let cache = Self {
            inner: Mutex::new(inner),
            flights: Default::default(),
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
        self.lock().policy.is_some()
    }

    /// Changes what is allowed. `None` wipes everything, and gives the list of forms up.
    pub fn set_policy(&self, policy: Option<Policy>) {
        let mut inner = self.lock();
        inner.policy = policy;
        if policy.is_none() && !inner.is_empty() {
            inner.wipe("local_kek.enabled is false", |_| true);
            inner.list.clear();
        }
    }

    /// Takes in how the key services stand at this moment, all of them, and wipes what may not be used any
    /// longer.
    pub fn settle(&self, standings: &[Standing]) {
        let mut inner = self.lock();
        let Some(policy) = inner.policy else { return };
        inner.refusing.clear();
        for standing in standings {
            let ours = |group: &Group| group.scope == standing.scope;
            if standing.refuses {
                inner.refusing.push(standing.scope.clone());
                inner.wipe("the key service refuses us", ours);
            }
            let too_old = |group: &Group| ours(group) && group.version < standing.min_version;
            inner.wipe("min_decryption_version was raised above their key's version", too_old);
            for group in inner.groups.iter_mut().filter(|group| ours(group)) {
                if let Some(contact) = standing.contact.filter(|contact| *contact > group.contact()) {
                    group.set_contact(contact);
                }
            }
        }
        let now = BootTime::now();
        inner.wipe("the key service was not reached for local_kek.max_offline", |group| {
            now >= group.contact().plus(policy.max_offline)
        });
        let unknown = |group: &Group| !standings.iter().any(|standing| standing.scope == group.scope);
        inner.wipe("their key service is not configured any more", unknown);
    }

    /// Whether that key service refuses us, as far as is known.
    pub(super) fn is_refused(&self, scope: &KeyScope) -> bool {
        self.lock().refusing.contains(scope)
    }

    /// The key whose wrapped form this is, when it may be used now.
    pub fn find(&self, kind: Kind, key_id: &str, wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let fingerprint = Fingerprint::of(kind, key_id, wrapped);
        self.lock().find(&fingerprint).map(|record| record.secret)
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
        let mut inner = self.lock();
        if inner.insert(subject, &record) {
            let form = || Listed { kind, key_id: subject.key_id.to_owned(), wrapped: wrapped.to_vec() };
            inner.list.add(fingerprint, form);
        }
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
        let kept = inner.insert(subject, &record);
        if kept {
            inner.current.retain(|(key_id, _)| key_id != subject.key_id);
            inner.current.push((subject.key_id.to_owned(), fingerprint));
            let form =
                || Listed { kind: Kind::Kek, key_id: subject.key_id.to_owned(), wrapped: wrapped.to_vec() };
            inner.list.add(fingerprint, form);
        }
        kept
    }

    /// The local KEK that wraps under `key_id`, and its wrapped form, for one use. `None` when there is none,
    /// or it is used up.
    pub fn claim(&self, key_id: &str) -> Option<(Key, Vec<u8>)> {
        let mut inner = self.lock();
        let policy = inner.policy?;
        let record = inner.own(key_id)?;
        if record.uses >= policy.max_uses {
            return None;
        }
        inner.groups.iter_mut().for_each(|group| group.set_uses(&record.fingerprint, record.uses + 1));
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        if record.secret.len() != KEY_BYTES {
            return None;
        }
        key.copy_from_slice(&record.secret);
        Some((key, record.wrapped))
    }

    /// Whether the local KEK under `key_id` is missing, too old or nearly used up.
    pub fn wants_another(&self, key_id: &str) -> bool {
        let mut inner = self.lock();
        let Some(policy) = inner.policy else { return false };
        let Some(record) = inner.own(key_id) else { return true };
        let age = u64::try_from(unix_seconds().saturating_sub(record.made)).unwrap_or_default();
        age >= policy.max_age.as_secs() || record.uses >= policy.max_uses - policy.max_uses / 4
    }

    /// The forms that were seen and are not unwrapped.
    pub fn missing(&self) -> Vec<Listed> {
        let inner = self.lock();
        inner.missing().map(|(_, form)| form.clone()).collect()
    }

    /// Writes the list of forms down, when something is new.
    pub fn save(&self) {
        self.lock().list.save();
    }

    /// Gives a form up: nothing can unwrap it any more.
    pub fn forget(&self, form: &Listed) {
        self.lock().list.remove(&form.fingerprint());
    }

    /// The fingerprints of all keys that may be used now.
    pub fn fingerprints(&self) -> Vec<String> {
        let inner = self.lock();
        let open = inner.groups.iter().filter(|group| inner.is_open(group));
        open.flat_map(|group| group.entries().map(|(fingerprint, _)| fingerprint.hex())).collect()
    }

    /// What the faces show, with the primary's key_id; `None` when local KEKs are off.
    pub fn state(&self, key_id: Option<&str>) -> Option<OfflineState> {
        let mut inner = self.lock();
        let policy = inner.policy?;
        let own = key_id.and_then(|key_id| inner.own(key_id));
        let open: Vec<&Group> = inner.groups.iter().filter(|group| inner.is_open(group)).collect();
        let count = |seed: bool| {
            let all = open.iter().flat_map(|group| group.entries());
            all.filter(|(_, entry)| (entry.kind == Kind::Seed) == seed).count()
        };
        let missing = inner.missing().count();
        Some(OfflineState {
            ready: own.is_some() && missing == 0,
            max_offline_seconds: policy.max_offline.as_secs(),
            until: open.iter().map(|group| group.contact().plus(policy.max_offline)).max(),
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
    fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.list.is_empty()
    }

    /// Whether the keys of a group may be used now.
    fn is_open(&self, group: &Group) -> bool {
        let in_time = |policy: Policy| BootTime::now() < group.contact().plus(policy.max_offline);
        self.policy.is_some_and(in_time) && !self.refusing.contains(&group.scope)
    }

    fn find(&mut self, fingerprint: &Fingerprint) -> Option<Record> {
        self.count += 1;
        let now = self.count;
        let open: Vec<bool> = self.groups.iter().map(|group| self.is_open(group)).collect();
        let groups = self.groups.iter_mut().zip(open).filter(|(_, open)| *open);
        groups.map(|(group, _)| group).find_map(|group| group.find(fingerprint, now))
    }

    /// The newest local KEK of ours under `key_id`.
    fn own(&mut self, key_id: &str) -> Option<Record> {
        let known = self.current.iter().find(|(id, _)| id == key_id).map(|(_, fingerprint)| *fingerprint);
        if let Some(fingerprint) = known {
            return self.find(&fingerprint);
        }
        // After a restart: which of those that were kept is it?
        let own: Vec<Fingerprint> = self
            .groups
            .iter()
            .flat_map(|group| group.entries().filter(|(_, entry)| entry.kind == Kind::Own))
            .map(|(fingerprint, _)| *fingerprint)
            .collect();
        let records: Vec<Record> = own.iter().filter_map(|fingerprint| self.find(fingerprint)).collect();
        let ours =
            |record: &Record| Fingerprint::of(Kind::Own, key_id, &record.wrapped) == record.fingerprint;
        let newest = records.into_iter().filter(ours).max_by_key(|record| record.made)?;
        self.current.push((key_id.to_owned(), newest.fingerprint));
        Some(newest)
    }

    fn missing(&self) -> impl Iterator<Item = &(Fingerprint, Listed)> {
        let known = |fingerprint: &Fingerprint| self.groups.iter().any(|group| group.has(fingerprint));
        self.list.forms().filter(move |(fingerprint, _)| !known(fingerprint))
    }

    /// Keeps a key that the key service has just wrapped or unwrapped: it was reached.
    fn insert(&mut self, subject: Subject<'_>, record: &Record) -> bool {
        if self.policy.is_none() || self.refusing.contains(subject.scope) {
            return false;
        }
        self.count += 1;
        let (now, count) = (BootTime::now(), self.count);
        let same = |group: &Group| group.scope == *subject.scope && group.version == subject.version;
        let position = match self.groups.iter().position(same) {
            Some(position) => position,
            None => match Group::create(subject.scope, subject.version, now) {
                Ok(group) => {
                    self.make_room();
                    self.groups.push(group);
                    self.groups.len() - 1
                }
                Err(error) => {
                    tracing::warn!(
                        "no protected memory for keys of {}: {error}; they are unwrapped by the key service each time",
                        subject.scope
                    );
                    return false;
                }
            },
        };
        let Some(group) = self.groups.get_mut(position) else { return false };
        group.set_contact(now);
        group.insert(record, count)
    }

    fn make_room(&mut self) {
        let oldest = self.groups.iter().min_by_key(|group| group.last_wanted());
        if let Some(oldest) = oldest.filter(|_| self.groups.len() >= MAX_GROUPS) {
            let (scope, version) = (oldest.scope.clone(), oldest.version);
            self.wipe("there is room for 16 key versions, and theirs was not asked for longest", |group| {
                group.scope == scope && group.version == version
            });
        }
    }

    fn wipe(&mut self, why: &str, which: impl Fn(&Group) -> bool) {
        let (gone, stay): (Vec<Group>, Vec<Group>) =
            std::mem::take(&mut self.groups).into_iter().partition(|group| which(group));
        self.groups = stay;
        for group in gone {
            tracing::warn!(
                KMS_REASON = "keys_wiped",
                "the keys in memory under {} version {} are wiped: {why}",
                group.scope,
                group.version
            );
            group.wipe();
        }
        let groups = &self.groups;
        self.current.retain(|(_, fingerprint)| groups.iter().any(|group| group.has(fingerprint)));
    }
}
