//! A group: the cached keys that one key version of the key service has wrapped, in one piece of protected memory.
//! When the key service refuses that version, the whole group is wiped.
//!
//! ```text
//!   0 "kms-plugin keys\n"(16) format(4) length of the JSON(4) zero(8)
//!  32 last contact, milliseconds on CLOCK_BOOTTIME(8)      not in the checksum
//!  40 wrapping key, JSON
//! 4088 checksum(8)
//! 4096 records
//! ```

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::record::{Fingerprint, KeyKind, RECORD, Record, checksum};
use super::sealed_memory::SealedMemory;
use crate::clock::BootTime;
use crate::key_service::{KeyScope, KeyVersion};
use crate::systemd::store;

/// Prefix of the names of our descriptors in systemd's descriptor store.
pub(super) const NAME_PREFIX: &str = "kek.";
/// The only layout so far.
const FORMAT: u32 = 1;
const MAGIC: &[u8] = b"kms-plugin keys\n";
const CONTACT: std::ops::Range<usize> = 32..40;
const WRAPPING_KEY: usize = 40;
const CHECKSUM: usize = 4088;
const HEADER: usize = 4096;
/// Length of a group, in bytes: space for 1008 keys.
pub(super) const LENGTH: usize = 256 * 1024;

/// One version of one key of a key service: it has wrapped the keys of a group. Its JSON is part of the memory
/// layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WrappingKey {
    pub scope: KeyScope,
    pub version: u32,
    /// When the version was made, in seconds since 1970. A key that is deleted and created again is another key.
    pub created: i64,
}

impl WrappingKey {
    /// `None` when the creation time is not known: keys of such a version are not cached.
    pub(super) fn of(key_version: KeyVersion<'_>) -> Option<Self> {
        let created = key_version.created?;
        Some(Self { scope: key_version.scope.clone(), version: key_version.version, created })
    }
}

/// The cached keys under one wrapping key.
pub(super) struct KeyGroup {
    pub wrapping_key: WrappingKey,
    /// Name in systemd's descriptor store.
    name: String,
    memory: SealedMemory,
    entries: HashMap<Fingerprint, Entry>,
}

/// Where a key lies in the memory.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    slot: usize,
    pub kind: KeyKind,
    /// When it was last used, as a count of uses: a higher number is later.
    pub last_used: u64,
}

impl KeyGroup {
    /// Creates an empty group, and gives its descriptor to systemd, if there is one.
    pub(super) fn create(wrapping_key: &WrappingKey, contact: BootTime) -> io::Result<Self> {
        let mut memory = SealedMemory::create(c"kms-plugin-keys", LENGTH)?;
        let json = serde_json::to_vec(wrapping_key)?;
        let length = u32::try_from(json.len()).map_err(io::Error::other)?.to_le_bytes();
        let mut header = [MAGIC, &FORMAT.to_le_bytes(), &length, &[0; 16], &json].concat();
        if header.len() > CHECKSUM {
            return Err(io::Error::other("the names of namespace, mount and key are too long together"));
        }
        header.resize(CHECKSUM, 0);
        header.extend_from_slice(&checksum(&header, CONTACT, CHECKSUM).ok_or_else(too_small)?);
        memory.bytes_mut().get_mut(..HEADER).ok_or_else(too_small)?.copy_from_slice(&header);
        let mut group = Self {
            wrapping_key: wrapping_key.clone(),
            name: name(&json, wrapping_key.version),
            memory,
            entries: HashMap::new(),
        };
        group.set_contact(contact);
        store::keep(&group.name, group.memory.as_fd());
        Ok(group)
    }

    /// Opens a group of an earlier run of the agent, from the descriptor that systemd returned.
    ///
    /// # Errors
    /// When it is damaged, or has another version of the layout.
    pub(super) fn adopt(name: String, fd: OwnedFd) -> io::Result<Self> {
        let memory = SealedMemory::adopt(fd, LENGTH)?;
        let header = memory.bytes().get(..HEADER).ok_or_else(too_small)?;
        if header.get(CHECKSUM..) != checksum(header, CONTACT, CHECKSUM).as_ref().map(<[u8; 8]>::as_slice) {
            return Err(io::Error::other("its checksum is wrong"));
        }
        let number = |at: usize| {
            let bytes = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_le_bytes).ok_or_else(too_small)
        };
        if !header.starts_with(MAGIC) || number(16)? != FORMAT {
            return Err(io::Error::other("another version of kms-plugin wrote it"));
        }
        let length = usize::try_from(number(20)?).map_err(io::Error::other)?;
        let json = header.get(WRAPPING_KEY..WRAPPING_KEY + length).ok_or_else(too_small)?;
        let wrapping_key = serde_json::from_slice(json)?;
        let records = memory.bytes().get(HEADER..).unwrap_or_default().chunks_exact(RECORD).enumerate();
        let mut entries: HashMap<Fingerprint, Entry> = HashMap::new();
        let mut newest: Option<(Fingerprint, (i64, Reverse<u64>))> = None;
        for (slot, bytes) in records {
            let Some(record) = Record::read(bytes) else { continue };
            entries.insert(record.fingerprint, Entry { slot, kind: record.kind, last_used: 0 });
            // Of two that were made in the same second, the newer one has fewer uses.
            let age = (record.made, Reverse(record.uses));
            if record.kind == KeyKind::Current && newest.is_none_or(|(_, newest_age)| age > newest_age) {
                newest = Some((record.fingerprint, age));
            }
        }
        // The records of older local KEKs still say `Current`. They only unwrap, and may be evicted.
        let newest = newest.map(|(fingerprint, _)| fingerprint);
        let older = entries.iter_mut().filter(|(fingerprint, _)| Some(**fingerprint) != newest);
        older
            .filter(|(_, entry)| entry.kind == KeyKind::Current)
            .for_each(|(_, entry)| entry.kind = KeyKind::Kek);
        Ok(Self { wrapping_key, name, memory, entries })
    }

    /// When the key service last answered successfully.
    pub(super) fn contact(&self) -> BootTime {
        let bytes = self.memory.bytes().get(CONTACT).and_then(|bytes| bytes.try_into().ok());
        BootTime(Duration::from_millis(bytes.map_or(0, u64::from_le_bytes)))
    }

    /// Sets when the key service last answered successfully.
    pub(super) fn set_contact(&mut self, contact: BootTime) {
        let millis = u64::try_from(contact.0.as_millis()).unwrap_or_default();
        if let Some(field) = self.memory.bytes_mut().get_mut(CONTACT) {
            field.copy_from_slice(&millis.to_le_bytes());
        }
    }

    /// Whether the memory is locked, so that it is never swapped out.
    pub(super) fn is_locked(&self) -> bool {
        self.memory.is_locked()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&Fingerprint, &Entry)> {
        self.entries.iter()
    }

    pub(super) fn contains(&self, fingerprint: &Fingerprint) -> bool {
        self.entries.contains_key(fingerprint)
    }

    /// When a key of the group was last used.
    pub(super) fn last_used(&self) -> u64 {
        self.entries.values().map(|entry| entry.last_used).max().unwrap_or_default()
    }

    /// Finds a key. Its last use becomes `now`.
    pub(super) fn find(&mut self, fingerprint: &Fingerprint, now: u64) -> Option<Record> {
        let entry = self.entries.get_mut(fingerprint)?;
        entry.last_used = now;
        let slot = entry.slot;
        Record::read(self.slot(slot)?)
    }

    /// Sets how many seeds a key has wrapped.
    pub(super) fn set_uses(&mut self, fingerprint: &Fingerprint, uses: u64) {
        let slot = self.entries.get(fingerprint).map(|entry| entry.slot);
        if let Some(slot) = slot.and_then(|slot| self.slot_mut(slot)) {
            Record::set_uses(slot, uses);
        }
    }

    /// Ends the wrapping with every local KEK of this group; they unwrap as before. For a key version that was replaced:
    /// the other key may have wrapped the newest of them before that was noticed, and when the old key is back, nobody
    /// can unwrap those.
    pub(super) fn retire(&mut self) {
        let made_here = self.entries().filter(|(_, entry)| entry.kind == KeyKind::Current);
        let made_here: Vec<Fingerprint> = made_here.map(|(fingerprint, _)| *fingerprint).collect();
        made_here.iter().for_each(|fingerprint| self.set_uses(fingerprint, u64::MAX));
    }

    /// Caches a key. A full group first evicts its least recently used key, but never the local KEK in use. The
    /// evicted key is added to `evicted`. Returns whether the key is cached.
    pub(super) fn insert(&mut self, record: &Record, now: u64, evicted: &mut Vec<Fingerprint>) -> bool {
        if let Some(entry) = self.entries.get_mut(&record.fingerprint)
            && record.wrapped.is_empty()
        {
            // The same key. An unwrap does not tell how it was wrapped, nor how often it has been used: that stays.
            entry.last_used = now;
            return true;
        }
        let slot = match self.entries.get(&record.fingerprint) {
            Some(entry) => Some(entry.slot),
            None => self.free_slot(evicted),
        };
        let Some(slot) = slot else { return false };
        let written = self.slot_mut(slot).is_some_and(|bytes| record.write(bytes));
        if written {
            if record.kind == KeyKind::Current {
                // The previous one now only unwraps, and may be evicted.
                self.entries
                    .values_mut()
                    .filter(|entry| entry.kind == KeyKind::Current)
                    .for_each(|entry| entry.kind = KeyKind::Kek);
            }
            self.entries.insert(record.fingerprint, Entry { slot, kind: record.kind, last_used: now });
        }
        written
    }

    /// Overwrites every key, and removes the descriptor from systemd's store.
    pub(super) fn wipe(mut self) {
        self.memory.wipe();
        store::give_up(&self.name);
    }

    #[cfg(test)]
    pub(super) fn descriptor(&self) -> (String, OwnedFd) {
        let copy = self.memory.as_fd().try_clone_to_owned();
        (self.name.clone(), copy.unwrap_or_else(|error| unreachable!("{error}")))
    }

    /// An empty slot; in a full group the slot of the least recently used key, which is evicted.
    fn free_slot(&mut self, evicted: &mut Vec<Fingerprint>) -> Option<usize> {
        let slots = (LENGTH - HEADER) / RECORD;
        if self.entries.len() < slots {
            let mut taken = vec![false; slots];
            for entry in self.entries.values() {
                if let Some(mark) = taken.get_mut(entry.slot) {
                    *mark = true;
                }
            }
            return taken.iter().position(|taken| !taken);
        }
        let evictable = self.entries.iter().filter(|(_, entry)| entry.kind != KeyKind::Current);
        let (fingerprint, slot) = evictable
            .min_by_key(|(_, entry)| entry.last_used)
            .map(|(fingerprint, entry)| (*fingerprint, entry.slot))?;
        self.entries.remove(&fingerprint);
        evicted.push(fingerprint);
        Some(slot)
    }

    fn slot(&self, slot: usize) -> Option<&[u8]> {
        let start = HEADER + slot * RECORD;
        self.memory.bytes().get(start..start + RECORD)
    }

    fn slot_mut(&mut self, slot: usize) -> Option<&mut [u8]> {
        let start = HEADER + slot * RECORD;
        self.memory.bytes_mut().get_mut(start..start + RECORD)
    }
}

/// The name in systemd's descriptor store: the prefix, 12 digits of a hash of the wrapping key's JSON, the version.
fn name(json: &[u8], version: u32) -> String {
    let hash = digest(&SHA256, json);
    let short = HEXLOWER.encode(hash.as_ref().get(..6).unwrap_or_default());
    format!("{NAME_PREFIX}{short}.v{version}")
}

fn too_small() -> io::Error {
    io::Error::other("the memory is too small; report this as a bug")
}
