//! All groups of cached keys: which of them may be used now, which are wiped, and which are evicted.
//!
//! Must not know locks or calls. The caller holds the cache's lock.

use std::time::Duration;

use zeroize::Zeroizing;

use super::format::{KEY_BYTES, Key};
use super::group::{KeyGroup, LENGTH, WrappingKey};
use super::record::{Fingerprint, KeyKind, Record};
use super::service_health::{Eligibility, ServiceHealth};
use crate::clock::{BootTime, unix_seconds};
use crate::config::local_kek::Policy;

/// Groups that are cached at once, each with space for a thousand keys. A new one then evicts the least recently
/// used.
const MAX_GROUPS: usize = 16;
/// Memory of all groups together, in bytes. It is locked, so that it is never swapped out.
pub(crate) const MAX_LOCKED: usize = MAX_GROUPS * LENGTH;

/// All cached keys.
#[derive(Default)]
pub(super) struct KeyGroups {
    /// The limits; `None` when local KEKs are off, and nothing is cached.
    pub policy: Option<Policy>,
    groups: Vec<KeyGroup>,
    /// The last known health of the key services.
    services: Vec<ServiceHealth>,
    /// For each key_id, the fingerprint of the local KEK in use.
    current: Vec<(String, Fingerprint)>,
    /// The local KEK that was made while the key could not be read, and whether it is replaced since the key was read.
    unread: Option<(Fingerprint, bool)>,
    /// Counts uses of keys: it orders them by last use.
    use_count: u64,
    /// Keys that were evicted since the last `take_evicted`.
    evicted: Vec<Fingerprint>,
    /// Whether keys were evicted since the start: more keys are in use than the cache holds.
    pub has_evicted: bool,
}

impl KeyGroups {
    /// The groups of an earlier run of the agent.
    pub(super) fn of(groups: Vec<KeyGroup>) -> Self {
        Self { groups, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether a key is cached, expired or not.
    pub(super) fn contains(&self, fingerprint: &Fingerprint) -> bool {
        self.groups.iter().any(|group| group.contains(fingerprint))
    }

    /// The key version that has wrapped a cached key.
    pub(super) fn wrapping_key(&self, fingerprint: &Fingerprint) -> Option<&WrappingKey> {
        self.groups.iter().find(|group| group.contains(fingerprint)).map(|group| &group.wrapping_key)
    }

    /// The groups whose keys may be used now.
    pub(super) fn usable(&self) -> impl Iterator<Item = &KeyGroup> {
        let now = BootTime::now();
        self.groups.iter().filter(move |group| {
            self.policy.is_some_and(|policy| may_use(group, policy, &self.services, now))
        })
    }

    /// Finds a key that may be used now.
    pub(super) fn find(&mut self, fingerprint: &Fingerprint) -> Option<Record> {
        self.use_count += 1;
        let (policy, now, use_count) = (self.policy?, BootTime::now(), self.use_count);
        let services = &self.services;
        let usable = |group: &&mut KeyGroup| may_use(group, policy, services, now);
        self.groups.iter_mut().filter(usable).find_map(|group| group.find(fingerprint, use_count))
    }

    /// The local KEK in use under `key_id`: the newest one that this agent made.
    pub(super) fn current(&mut self, key_id: &str) -> Option<Record> {
        let known = self.current.iter().find(|(id, _)| id == key_id).map(|(_, fingerprint)| *fingerprint);
        if let Some(fingerprint) = known {
            // Without its wrapped form, nothing may be wrapped with it: nobody could unwrap that.
            return self.find(&fingerprint).filter(|record| !record.wrapped.is_empty());
        }
        // After a restart: a record does not contain its key_id, but its fingerprint is a hash over it.
        let entries = self.groups.iter().flat_map(KeyGroup::entries);
        let made_here = entries.filter(|(_, entry)| entry.kind == KeyKind::Current);
        let made_here: Vec<Fingerprint> = made_here.map(|(fingerprint, _)| *fingerprint).collect();
        let records: Vec<Record> =
            made_here.iter().filter_map(|fingerprint| self.find(fingerprint)).collect();
        let has_key_id = |record: &Record| {
            Fingerprint::of(KeyKind::Current, key_id, &record.wrapped) == record.fingerprint
        };
        let newest = records.into_iter().filter(has_key_id).max_by_key(|record| record.made)?;
        self.current.push((key_id.to_owned(), newest.fingerprint));
        Some(newest)
    }

    /// Sets which local KEK is in use under `key_id`.
    pub(super) fn set_current(&mut self, key_id: &str, fingerprint: Fingerprint) {
        self.current.retain(|(known, _)| known != key_id);
        self.current.push((key_id.to_owned(), fingerprint));
    }

    /// Notes that the local KEK with this fingerprint was made while the key could not be read.
    pub(super) fn set_unread(&mut self, fingerprint: Fingerprint) {
        self.unread = Some((fingerprint, false));
    }

    /// The key was read: a local KEK that was made without that may be another key's, and is replaced.
    pub(super) fn key_was_read(&mut self) {
        if let Some((_, replaced)) = &mut self.unread {
            *replaced = true;
        }
    }

    /// Takes the local KEK in use under `key_id`, and the same key wrapped, for one use, which is counted. `None`
    /// when there is none, or it has no uses left.
    pub(super) fn use_current(&mut self, key_id: &str) -> Option<(Key, Vec<u8>)> {
        let policy = self.policy?;
        let record = self.current(key_id).filter(|record| record.uses < policy.max_uses)?;
        let key: &[u8; KEY_BYTES] = record.secret.as_slice().try_into().ok()?;
        let key = Zeroizing::new(*key);
        self.groups.iter_mut().for_each(|group| group.set_uses(&record.fingerprint, record.uses + 1));
        Some((key, record.wrapped))
    }

    /// Whether the local KEK in use under `key_id` has uses left.
    pub(super) fn is_usable(&mut self, key_id: &str) -> bool {
        let Some(policy) = self.policy else { return false };
        self.current(key_id).is_some_and(|record| record.uses < policy.max_uses)
    }

    /// Whether the local KEK in use under `key_id` is missing, too old, has less than a quarter of its uses left, or was
    /// made while the key could not be read.
    pub(super) fn needs_replacement(&mut self, key_id: &str) -> bool {
        let Some(policy) = self.policy else { return false };
        let Some(record) = self.current(key_id) else { return true };
        if self.unread == Some((record.fingerprint, true)) {
            return true;
        }
        // A creation time in the future: the clock was wrong, so the age is not known.
        let age = u64::try_from(unix_seconds().saturating_sub(record.made)).unwrap_or(u64::MAX);
        age >= policy.max_age.as_secs() || record.uses >= policy.max_uses - policy.max_uses / 4
    }

    /// The time until the local KEK in use under `key_id` is too old, at least one second; `None` when there is none.
    pub(super) fn replacement_due(&mut self, key_id: &str) -> Option<Duration> {
        let policy = self.policy?;
        let age = unix_seconds().saturating_sub(self.current(key_id)?.made);
        let age = Duration::from_secs(u64::try_from(age).unwrap_or_default());
        Some(policy.max_age.saturating_sub(age).max(Duration::from_secs(1)))
    }

    /// When the first group is to be wiped; `None` without groups.
    pub(super) fn next_expiry(&self) -> Option<BootTime> {
        let policy = self.policy?;
        let wiped = |group: &KeyGroup| {
            let refused = Eligibility::of(&group.wrapping_key, &self.services).wipe_at;
            refused.map_or(expiry(group, policy), |at| at.min(expiry(group, policy)))
        };
        self.groups.iter().map(wiped).min()
    }

    /// Whether the key service refuses, so that no key under this version may be cached.
    pub(super) fn is_refused(&self, wrapping_key: &WrappingKey) -> bool {
        Eligibility::of(wrapping_key, &self.services).wipe_at.is_some()
    }

    /// Caches a key that the key service has just wrapped or unwrapped, so the time of last contact is now. Returns
    /// whether the key is cached.
    pub(super) fn insert(&mut self, wrapping_key: &WrappingKey, record: &Record) -> bool {
        if self.policy.is_none() || self.is_refused(wrapping_key) {
            return false;
        }
        self.use_count += 1;
        let (now, use_count) = (BootTime::now(), self.use_count);
        let position = match self.groups.iter().position(|group| group.wrapping_key == *wrapping_key) {
            Some(position) => position,
            None => match KeyGroup::create(wrapping_key, now) {
                Ok(group) => {
                    self.evict_if_full();
                    self.groups.push(group);
                    self.groups.len() - 1
                }
                Err(error) => {
                    tracing::warn!(
                        "no protected memory for keys under {}: {error}; they are not cached, and each use is a call to the key service",
                        wrapping_key.scope
                    );
                    return false;
                }
            },
        };
        let Some(group) = self.groups.get_mut(position) else { return false };
        group.set_contact(now);
        group.insert(record, use_count, &mut self.evicted)
    }

    /// The keys that were evicted since the last call. They must not be prefetched again: there is no space for them.
    pub(super) fn take_evicted(&mut self) -> Vec<Fingerprint> {
        self.has_evicted |= !self.evicted.is_empty();
        std::mem::take(&mut self.evicted)
    }

    /// Takes the health of all key services, and wipes the keys that may not be used any more. Returns whether keys
    /// were wiped, or their expiry changed.
    pub(super) fn apply_health(&mut self, services: &[ServiceHealth]) -> bool {
        let Some(policy) = self.policy else { return false };
        self.services = services.to_vec();
        let mut changed = false;
        for group in &mut self.groups {
            let before = group.contact();
            let eligibility = Eligibility::of(&group.wrapping_key, services);
            if eligibility.replaced {
                group.retire();
            }
            if let Some(contact) = eligibility.contact.filter(|contact| *contact > before) {
                group.set_contact(contact);
                // The group stores whole milliseconds, so a later contact may be the same.
                changed |= group.contact() != before;
            }
        }
        let now = BootTime::now();
        changed |= self.wipe("the key service refuses us", |group| {
            Eligibility::of(&group.wrapping_key, services).wipe_at.is_some_and(|at| now >= at)
        });
        changed |= self.wipe("min_decryption_version was raised above their key's version", |group| {
            Eligibility::of(&group.wrapping_key, services).below_min_version
        });
        let expired = |group: &KeyGroup| now >= expiry(group, policy);
        changed |= self.wipe(
            "the key service has another key by that name, and local_kek.max_offline has passed since it had this one",
            |group| expired(group) && Eligibility::of(&group.wrapping_key, services).replaced,
        );
        changed |= self.wipe("the key service was not reached for local_kek.max_offline", expired);
        changed
    }

    /// Evicts the least recently used group when there is no space for another one.
    fn evict_if_full(&mut self) {
        if self.groups.len() < MAX_GROUPS {
            return;
        }
        let oldest = self.groups.iter().min_by_key(|group| group.last_used());
        if let Some(oldest) = oldest {
            let wrapping_key = oldest.wrapping_key.clone();
            self.evicted.extend(oldest.entries().map(|(fingerprint, _)| *fingerprint));
            self.wipe("evicted as the least recently used: the cache holds 16 key versions", |group| {
                group.wrapping_key == wrapping_key
            });
        }
    }

    /// Overwrites and removes the groups that `which` selects. Returns whether there were any.
    pub(super) fn wipe(&mut self, why: &str, which: impl Fn(&KeyGroup) -> bool) -> bool {
        let (wiped, remaining): (Vec<KeyGroup>, Vec<KeyGroup>) =
            std::mem::take(&mut self.groups).into_iter().partition(|group| which(group));
        self.groups = remaining;
        let any = !wiped.is_empty();
        for group in wiped {
            tracing::warn!(
                KMS_REASON = "keys_wiped",
                "the keys in memory under {} version {} are wiped: {why}",
                group.wrapping_key.scope,
                group.wrapping_key.version
            );
            group.wipe();
        }
        let groups = &self.groups;
        self.current.retain(|(_, fingerprint)| groups.iter().any(|group| group.contains(fingerprint)));
        any
    }

    /// How many keys under this Transit key are in memory, and its key service refuses.
    #[cfg(test)]
    pub(super) fn refused(&self, key: &str) -> usize {
        let is_refused = |group: &&KeyGroup| {
            let wipe_at = Eligibility::of(&group.wrapping_key, &self.services).wipe_at;
            group.wrapping_key.scope.key == key && wipe_at.is_some()
        };
        self.groups.iter().filter(is_refused).map(|group| group.entries().count()).sum()
    }

    /// Copies of the descriptors that systemd would hold.
    #[cfg(test)]
    pub(super) fn descriptors(&self) -> Vec<(String, std::os::fd::OwnedFd)> {
        self.groups.iter().map(KeyGroup::descriptor).collect()
    }
}

/// Whether the keys of a group may be used now: its key service was reached not too long ago, and does not refuse.
fn may_use(group: &KeyGroup, policy: Policy, services: &[ServiceHealth], now: BootTime) -> bool {
    now < expiry(group, policy) && Eligibility::of(&group.wrapping_key, services).wipe_at.is_none()
}

/// When the keys of a group may not be used any more, unless its key service answers before.
fn expiry(group: &KeyGroup, policy: Policy) -> BootTime {
    group.contact().plus(policy.max_offline)
}
