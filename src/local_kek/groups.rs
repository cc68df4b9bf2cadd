//! The groups of kept keys: which of them may be used now, which are wiped, and which makes way.
//!
//! Must not know locks or calls; one caller at a time.

use std::time::Duration;

use zeroize::Zeroizing;

use super::format::{KEY_BYTES, Key};
use super::group::{Group, LENGTH, Owner};
use super::record::{Fingerprint, Kind, Record};
use super::service_health::{Eligibility, ServiceHealth};
use crate::clock::{BootTime, unix_seconds};
use crate::config::local_kek::Policy;

/// Versions of keys that are kept at once, each with room for a thousand keys; the one that was not wanted for
/// longest makes way.
const MAX_GROUPS: usize = 16;
/// Bytes of memory that all of them take at most, kept out of the swap.
pub(crate) const MAX_LOCKED: usize = MAX_GROUPS * LENGTH;

/// All that is kept.
#[derive(Default)]
pub(super) struct Groups {
    /// What is allowed; nothing is kept without it.
    pub policy: Option<Policy>,
    groups: Vec<Group>,
    /// How the key services stood the last time.
    services: Vec<ServiceHealth>,
    /// The fingerprint of the local KEK that wraps under a key_id.
    current: Vec<(String, Fingerprint)>,
    /// Counts what is wanted: the order of last use.
    count: u64,
    /// What made way since somebody asked.
    evicted: Vec<Fingerprint>,
    /// Whether anything ever made way: more is in use than is kept.
    pub has_evicted: bool,
}

impl Groups {
    /// What an earlier run left.
    pub(super) fn of(groups: Vec<Group>) -> Self {
        Self { groups, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Whether there is such a key.
    pub(super) fn has(&self, fingerprint: &Fingerprint) -> bool {
        self.groups.iter().any(|group| group.has(fingerprint))
    }

    /// Whose key that is.
    pub(super) fn owner(&self, fingerprint: &Fingerprint) -> Option<&Owner> {
        self.groups.iter().find(|group| group.has(fingerprint)).map(|group| &group.owner)
    }

    /// The groups whose keys may be used now.
    pub(super) fn open(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| self.is_open(group))
    }

    fn is_open(&self, group: &Group) -> bool {
        self.policy.is_some_and(|policy| BootTime::now() < group.contact().plus(policy.max_offline))
    }

    /// The key with that fingerprint, when it may be used now.
    pub(super) fn find(&mut self, fingerprint: &Fingerprint) -> Option<Record> {
        self.count += 1;
        let (now, policy) = (self.count, self.policy?);
        let time = BootTime::now();
        let open = |group: &&mut Group| time < group.contact().plus(policy.max_offline);
        self.groups.iter_mut().filter(open).find_map(|group| group.find(fingerprint, now))
    }

    /// The newest local KEK of ours under `key_id`.
    pub(super) fn own(&mut self, key_id: &str) -> Option<Record> {
        let known = self.current.iter().find(|(id, _)| id == key_id).map(|(_, fingerprint)| *fingerprint);
        if let Some(fingerprint) = known {
            return self.find(&fingerprint);
        }
        // After a restart: which of those that were kept is it?
        let entries = self.groups.iter().flat_map(Group::entries);
        let own = entries.filter(|(_, entry)| entry.kind == Kind::Own).map(|(fingerprint, _)| *fingerprint);
        let own: Vec<Fingerprint> = own.collect();
        let records: Vec<Record> = own.iter().filter_map(|fingerprint| self.find(fingerprint)).collect();
        let ours =
            |record: &Record| Fingerprint::of(Kind::Own, key_id, &record.wrapped) == record.fingerprint;
        let newest = records.into_iter().filter(ours).max_by_key(|record| record.made)?;
        self.current.push((key_id.to_owned(), newest.fingerprint));
        Some(newest)
    }

    /// The local KEK that wraps under `key_id`, and its wrapped form, for one use. `None` when there is none,
    /// or it is used up.
    pub(super) fn claim(&mut self, key_id: &str) -> Option<(Key, Vec<u8>)> {
        let policy = self.policy?;
        let record = self.own(key_id).filter(|record| record.uses < policy.max_uses)?;
        let key: &[u8; KEY_BYTES] = record.secret.as_slice().try_into().ok()?;
        let key = Zeroizing::new(*key);
        self.groups.iter_mut().for_each(|group| group.set_uses(&record.fingerprint, record.uses + 1));
        Some((key, record.wrapped))
    }

    /// Whether the local KEK under `key_id` is missing, too old or nearly used up.
    pub(super) fn needs_replacement(&mut self, key_id: &str) -> bool {
        let Some(policy) = self.policy else { return false };
        let Some(record) = self.own(key_id) else { return true };
        // One from the future was made while the clock was wrong: its age is not known.
        let age = u64::try_from(unix_seconds().saturating_sub(record.made)).unwrap_or(u64::MAX);
        age >= policy.max_age.as_secs() || record.uses >= policy.max_uses - policy.max_uses / 4
    }

    /// How long the local KEK under `key_id` is young enough, one second at least; `None` when there is none.
    pub(super) fn replacement_due(&mut self, key_id: &str) -> Option<Duration> {
        let policy = self.policy?;
        let age = unix_seconds().saturating_sub(self.own(key_id)?.made);
        let age = Duration::from_secs(u64::try_from(age).unwrap_or_default());
        Some(policy.max_age.saturating_sub(age).max(Duration::from_secs(1)))
    }

    /// When the first group may not be used any longer; `None` without one.
    pub(super) fn next_expiry(&self) -> Option<BootTime> {
        let max_offline = self.policy?.max_offline;
        self.groups.iter().map(|group| group.contact().plus(max_offline)).min()
    }

    /// Whether there is a local KEK under `key_id` that may be used once more.
    pub(super) fn is_usable(&mut self, key_id: &str) -> bool {
        let Some(policy) = self.policy else { return false };
        self.own(key_id).is_some_and(|record| record.uses < policy.max_uses)
    }

    /// Whether nothing of that key may be kept.
    pub(super) fn is_refused(&self, owner: &Owner) -> bool {
        Eligibility::of(owner, &self.services).refused
    }

    /// Keeps a key that the key service has just wrapped or unwrapped: it was reached. False when it cannot be
    /// kept.
    pub(super) fn insert(&mut self, owner: &Owner, record: &Record) -> bool {
        if self.policy.is_none() || self.is_refused(owner) {
            return false;
        }
        self.count += 1;
        let (now, count) = (BootTime::now(), self.count);
        let position = match self.groups.iter().position(|group| group.owner == *owner) {
            Some(position) => position,
            None => match Group::create(owner, now) {
                Ok(group) => {
                    self.make_room();
                    self.groups.push(group);
                    self.groups.len() - 1
                }
                Err(error) => {
                    tracing::warn!(
                        "no protected memory for keys of {}: {error}; they are unwrapped by the key service each time",
                        owner.scope
                    );
                    return false;
                }
            },
        };
        let Some(group) = self.groups.get_mut(position) else { return false };
        group.set_contact(now);
        group.insert(record, count, &mut self.evicted)
    }

    /// What made way for others since the last time: there is no room to unwrap it ahead.
    pub(super) fn take_evicted(&mut self) -> Vec<Fingerprint> {
        self.has_evicted |= !self.evicted.is_empty();
        std::mem::take(&mut self.evicted)
    }

    /// A local KEK of ours wraps from now on under `key_id`.
    pub(super) fn set_current(&mut self, key_id: &str, fingerprint: Fingerprint) {
        self.current.retain(|(known, _)| known != key_id);
        self.current.push((key_id.to_owned(), fingerprint));
    }

    /// Takes in how healthy the key services are, and wipes what may not be used any longer. True when it wiped.
    pub(super) fn settle(&mut self, services: &[ServiceHealth]) -> bool {
        let Some(policy) = self.policy else { return false };
        self.services = services.to_vec();
        for group in &mut self.groups {
            let contact = Eligibility::of(&group.owner, services).contact;
            if let Some(contact) = contact.filter(|contact| *contact > group.contact()) {
                group.set_contact(contact);
            }
        }
        let now = BootTime::now();
        let mut wiped =
            self.wipe("the key service refuses us", |group| Eligibility::of(&group.owner, services).refused);
        wiped |= self.wipe("min_decryption_version was raised above their key's version", |group| {
            Eligibility::of(&group.owner, services).below_min_version
        });
        wiped |= self.wipe("the key service was not reached for local_kek.max_offline", |group| {
            now >= group.contact().plus(policy.max_offline)
        });
        wiped
    }

    fn make_room(&mut self) {
        let oldest = self.groups.iter().min_by_key(|group| group.last_wanted());
        if let Some(oldest) = oldest.filter(|_| self.groups.len() >= MAX_GROUPS) {
            let owner = oldest.owner.clone();
            self.evicted.extend(oldest.entries().map(|(fingerprint, _)| *fingerprint));
            self.wipe("there is room for 16 key versions, and theirs was not asked for longest", |group| {
                group.owner == owner
            });
        }
    }

    /// What systemd would keep.
    #[cfg(test)]
    pub(super) fn descriptors(&self) -> Vec<(String, std::os::fd::OwnedFd)> {
        self.groups.iter().map(Group::descriptor).collect()
    }

    /// Overwrites the keys of some groups, and gives them up. True when there were any.
    pub(super) fn wipe(&mut self, why: &str, which: impl Fn(&Group) -> bool) -> bool {
        let (gone, stay): (Vec<Group>, Vec<Group>) =
            std::mem::take(&mut self.groups).into_iter().partition(|group| which(group));
        self.groups = stay;
        let any = !gone.is_empty();
        for group in gone {
            tracing::warn!(
                KMS_REASON = "keys_wiped",
                "the keys in memory under {} version {} are wiped: {why}",
                group.owner.scope,
                group.owner.version
            );
            group.wipe();
        }
        let groups = &self.groups;
        self.current.retain(|(_, fingerprint)| groups.iter().any(|group| group.has(fingerprint)));
        any
    }
}
