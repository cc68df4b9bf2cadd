//! The kept keys of one version of one key of the key service, in one piece of protected memory: what is
//! refused together is wiped together.
//!
//! ```text
//!   0 "kms-plugin keys\n"(16) format(4) owner length(4) zero(8)
//!  32 last contact, milliseconds on CLOCK_BOOTTIME(8)      not under the checksum
//!  40 owner, JSON
//! 4088 checksum(8)
//! 4096 records
//! ```

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::memory::SealedMemory;
use super::record::{Fingerprint, Kind, RECORD, Record, checksum};
use crate::clock::BootTime;
use crate::key_service::{KeyScope, KeyVersion};
use crate::systemd::store;

/// How the names of our descriptors in systemd's store begin.
pub(super) const NAME: &str = "kek.";
/// The only layout so far.
const FORMAT: u32 = 1;
const MAGIC: &[u8] = b"kms-plugin keys\n";
const CONTACT: std::ops::Range<usize> = 32..40;
const OWNER: usize = 40;
const CHECKSUM: usize = 4088;
const HEADER: usize = 4096;
/// Bytes of a group: room for a thousand keys.
pub(super) const LENGTH: usize = 256 * 1024;

/// One version of one key of a key service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    pub scope: KeyScope,
    pub version: u32,
    /// When the version was made, in seconds since 1970: a key that is made anew is another one.
    pub created: i64,
}

impl Owner {
    /// `None` when it is not known when the version was made: its keys are not cached then.
    pub(super) fn of(key_version: KeyVersion<'_>) -> Option<Self> {
        let created = key_version.created?;
        Some(Self { scope: key_version.scope.clone(), version: key_version.version, created })
    }
}

/// The keys of one version.
pub(super) struct Group {
    pub owner: Owner,
    name: String,
    memory: SealedMemory,
    entries: HashMap<Fingerprint, Entry>,
}

/// Where a key lies.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    slot: usize,
    pub kind: Kind,
    /// When it was last wanted, in the cache's own count.
    pub wanted: u64,
}

impl Group {
    /// An empty group, kept by systemd where there is one.
    pub(super) fn create(owner: &Owner, contact: BootTime) -> io::Result<Self> {
        let mut memory = SealedMemory::create(c"kms-plugin-keys", LENGTH)?;
        let text = serde_json::to_vec(owner)?;
        let length = u32::try_from(text.len()).map_err(io::Error::other)?.to_le_bytes();
        let mut header = [MAGIC, &FORMAT.to_le_bytes(), &length, &[0; 16], &text].concat();
        if header.len() > CHECKSUM {
            return Err(io::Error::other("the names of namespace, mount and key are too long"));
        }
        header.resize(CHECKSUM, 0);
        header.extend_from_slice(&checksum(&header, CONTACT, CHECKSUM).ok_or_else(too_small)?);
        memory.bytes_mut().get_mut(..HEADER).ok_or_else(too_small)?.copy_from_slice(&header);
        let mut group =
            Self { owner: owner.clone(), name: name(&text, owner.version), memory, entries: HashMap::new() };
        group.set_contact(contact);
        store::keep(&group.name, group.memory.as_fd());
        Ok(group)
    }

    /// Takes over what an earlier run left with systemd.
    ///
    /// # Errors
    /// When it is damaged, or of another version of the layout.
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
            return Err(io::Error::other("it is of another version of kms-plugin"));
        }
        let length = usize::try_from(number(20)?).map_err(io::Error::other)?;
        let owner = serde_json::from_slice(header.get(OWNER..OWNER + length).ok_or_else(too_small)?)?;
        let records = memory.bytes().get(HEADER..).unwrap_or_default().chunks_exact(RECORD).enumerate();
        let mut entries: HashMap<Fingerprint, Entry> = HashMap::new();
        let mut own: Option<(Fingerprint, (i64, Reverse<u64>))> = None;
        for (slot, bytes) in records {
            let Some(record) = Record::read(bytes) else { continue };
            entries.insert(record.fingerprint, Entry { slot, kind: record.kind, wanted: 0 });
            // Made within one second: the one that was used less.
            let age = (record.made, Reverse(record.uses));
            if record.kind == Kind::Own && own.is_none_or(|(_, newest)| age > newest) {
                own = Some((record.fingerprint, age));
            }
        }
        // The others only unwrap, and may make way.
        let newest = own.map(|(fingerprint, _)| fingerprint);
        let older = entries.iter_mut().filter(|(fingerprint, _)| Some(**fingerprint) != newest);
        older.filter(|(_, entry)| entry.kind == Kind::Own).for_each(|(_, entry)| entry.kind = Kind::Kek);
        Ok(Self { owner, name, memory, entries })
    }

    /// When the key service last answered well.
    pub(super) fn contact(&self) -> BootTime {
        let bytes = self.memory.bytes().get(CONTACT).and_then(|bytes| bytes.try_into().ok());
        BootTime(Duration::from_millis(bytes.map_or(0, u64::from_le_bytes)))
    }

    /// Notes that the key service answered well.
    pub(super) fn set_contact(&mut self, contact: BootTime) {
        let millis = u64::try_from(contact.0.as_millis()).unwrap_or_default();
        if let Some(place) = self.memory.bytes_mut().get_mut(CONTACT) {
            place.copy_from_slice(&millis.to_le_bytes());
        }
    }

    /// Whether the memory is kept out of the swap.
    pub(super) fn is_locked(&self) -> bool {
        self.memory.is_locked()
    }

    /// The keys that are in it.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&Fingerprint, &Entry)> {
        self.entries.iter()
    }

    /// Whether there is a key with that fingerprint.
    pub(super) fn has(&self, fingerprint: &Fingerprint) -> bool {
        self.entries.contains_key(fingerprint)
    }

    /// When any key of it was last wanted.
    pub(super) fn last_wanted(&self) -> u64 {
        self.entries.values().map(|entry| entry.wanted).max().unwrap_or_default()
    }

    /// The key with that fingerprint, which is wanted `now`.
    pub(super) fn find(&mut self, fingerprint: &Fingerprint, now: u64) -> Option<Record> {
        let entry = self.entries.get_mut(fingerprint)?;
        entry.wanted = now;
        let slot = entry.slot;
        Record::read(self.slot(slot)?)
    }

    /// Counts one more use of a key.
    pub(super) fn set_uses(&mut self, fingerprint: &Fingerprint, uses: u64) {
        let slot = self.entries.get(fingerprint).map(|entry| entry.slot);
        if let Some(slot) = slot.and_then(|slot| self.slot_mut(slot)) {
            Record::set_uses(slot, uses);
        }
    }

    /// Keeps a key. When there is no room, that which was not wanted for longest makes way; a key that we wrap
    /// with stays. False when it cannot be kept. What made way is added to `evicted`.
    pub(super) fn insert(&mut self, record: &Record, now: u64, evicted: &mut Vec<Fingerprint>) -> bool {
        let slot = match self.entries.get(&record.fingerprint) {
            Some(entry) => Some(entry.slot),
            None => self.free_slot(evicted),
        };
        let Some(slot) = slot else { return false };
        let written = self.slot_mut(slot).is_some_and(|bytes| record.write(bytes));
        if written {
            if record.kind == Kind::Own {
                // The one before only unwraps from now on, and may make way.
                self.entries
                    .values_mut()
                    .filter(|entry| entry.kind == Kind::Own)
                    .for_each(|entry| entry.kind = Kind::Kek);
            }
            self.entries.insert(record.fingerprint, Entry { slot, kind: record.kind, wanted: now });
        }
        written
    }

    /// Overwrites every key, and has systemd give the memory up.
    pub(super) fn wipe(mut self) {
        self.memory.wipe();
        store::give_up(&self.name);
    }

    #[cfg(test)]
    pub(super) fn descriptor(&self) -> (String, OwnedFd) {
        let copy = self.memory.as_fd().try_clone_to_owned();
        (self.name.clone(), copy.unwrap_or_else(|error| unreachable!("{error}")))
    }

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
        let others = self.entries.iter().filter(|(_, entry)| entry.kind != Kind::Own);
        let (fingerprint, slot) =
            others.min_by_key(|(_, entry)| entry.wanted).map(|(found, entry)| (*found, entry.slot))?;
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

/// The name in systemd's store: `kek.`, a hash of the owner, the version.
fn name(owner: &[u8], version: u32) -> String {
    let hash = digest(&SHA256, owner);
    let short: String = hash.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{NAME}{short}.v{version}")
}

fn too_small() -> io::Error {
    io::Error::other("the memory is too small; report this as a bug")
}
