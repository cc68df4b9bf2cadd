//! One key in protected memory, as bytes: it must be readable by the next version of the program.
//!
//! ```text
//!   0 kind(1) secret length(1) wrapped length(2) zero(4)
//!   8 uses(8)           not under the checksum: it changes with each use
//!  16 made, unix seconds(8)
//!  24 fingerprint(32)
//!  56 secret(64)
//! 120 wrapped form(128), of a local KEK that this agent made
//! 248 checksum(8): SHA-256 over the rest, without the uses
//! ```

use std::ops::Range;

use aws_lc_rs::digest::{Context, SHA256, digest};
use zeroize::Zeroizing;

use super::format::{fields, kek_data};

/// Bytes of a record.
pub(super) const RECORD: usize = 256;
/// Longest secret that is kept, in bytes. A DEK seed has 32.
pub(super) const MAX_SECRET: usize = 64;
/// Longest wrapped form of a local KEK that is used, in bytes. Transit's has about 90.
pub(super) const MAX_WRAPPED: usize = 128;
const USES: Range<usize> = 8..16;
const CHECKSUM: usize = 248;
const DOMAIN: &[u8] = b"kms-plugin kept key";

/// What a kept key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A local KEK that this agent made, and wraps with.
    Own,
    /// A local KEK that another agent made, or an earlier one of ours.
    Kek,
    /// A DEK seed that the key service wrapped itself.
    Seed,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Own => 1,
            Self::Kek => 2,
            Self::Seed => 3,
        }
    }

    /// What the key service binds a wrapped form of this kind to.
    pub(super) fn data(self, key_id: &str) -> Vec<u8> {
        if self == Self::Seed { Vec::new() } else { kek_data(key_id) }
    }

    fn of(code: u8) -> Option<Self> {
        [Self::Own, Self::Kek, Self::Seed].into_iter().find(|kind| kind.code() == code)
    }
}

/// SHA-256 of what a wrapped form is, its key_id and itself: finds a key, and may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint(pub(super) [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a wrapped form under `key_id`. A local KEK has the same, whoever made it.
    pub(crate) fn of(kind: Kind, key_id: &str, wrapped: &[u8]) -> Self {
        let form: &[u8] = if kind == Kind::Seed { b"seed" } else { b"kek" };
        let hash = digest(&SHA256, &fields(&[DOMAIN, form, key_id.as_bytes(), wrapped]));
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hash.as_ref());
        Self(bytes)
    }

    /// 64 hexadecimal digits.
    pub(crate) fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A kept key.
pub(super) struct Record {
    pub kind: Kind,
    pub fingerprint: Fingerprint,
    pub secret: Zeroizing<Vec<u8>>,
    /// Empty, unless this agent made it.
    pub wrapped: Vec<u8>,
    /// When it was made, in seconds since 1970; 0 unless this agent made it.
    pub made: i64,
    pub uses: u64,
}

impl Record {
    /// Reads the record in `slot`; `None` when there is none, or a damaged one.
    pub(super) fn read(slot: &[u8]) -> Option<Self> {
        let kind = Kind::of(*slot.first()?)?;
        if slot.get(CHECKSUM..RECORD)? != checksum(slot, USES, CHECKSUM)? {
            return None;
        }
        let number = |range| Some(u64::from_le_bytes(slot.get::<Range<usize>>(range)?.try_into().ok()?));
        let secret = slot.get(56..56 + usize::from(*slot.get(1)?))?;
        let wrapped_length = usize::from(u16::from_le_bytes(slot.get(2..4)?.try_into().ok()?));
        Some(Self {
            kind,
            fingerprint: Fingerprint(slot.get(24..56)?.try_into().ok()?),
            secret: Zeroizing::new(secret.to_vec()),
            wrapped: slot.get(120..120 + wrapped_length)?.to_vec(),
            made: i64::from_le_bytes(slot.get(16..24)?.try_into().ok()?),
            uses: number(USES)?,
        })
    }

    /// Writes the record into `slot`. False when it does not fit; nothing is written then.
    pub(super) fn write(&self, slot: &mut [u8]) -> bool {
        let (Ok(secret), Ok(wrapped)) = (u8::try_from(self.secret.len()), u16::try_from(self.wrapped.len()))
        else {
            return false;
        };
        if self.secret.len() > MAX_SECRET || self.wrapped.len() > MAX_WRAPPED || slot.len() != RECORD {
            return false;
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(RECORD));
        bytes.extend_from_slice(&[self.kind.code(), secret]);
        bytes.extend_from_slice(&wrapped.to_le_bytes());
        bytes.resize(8, 0);
        bytes.extend_from_slice(&self.uses.to_le_bytes());
        bytes.extend_from_slice(&self.made.to_le_bytes());
        bytes.extend_from_slice(&self.fingerprint.0);
        bytes.extend_from_slice(&self.secret);
        bytes.resize(120, 0);
        bytes.extend_from_slice(&self.wrapped);
        bytes.resize(CHECKSUM, 0);
        let Some(checksum) = checksum(&bytes, USES, CHECKSUM) else { return false };
        bytes.extend_from_slice(&checksum);
        slot.copy_from_slice(&bytes);
        true
    }

    /// Notes in `slot` how often its key was used.
    pub(super) fn set_uses(slot: &mut [u8], uses: u64) {
        if let Some(place) = slot.get_mut(USES) {
            place.copy_from_slice(&uses.to_le_bytes());
        }
    }
}

/// The first 8 bytes of SHA-256 over `bytes`, up to `end` and without `hole`, where things change at any time.
pub(super) fn checksum(bytes: &[u8], hole: Range<usize>, end: usize) -> Option<[u8; 8]> {
    let mut hash = Context::new(&SHA256);
    hash.update(bytes.get(..hole.start)?);
    hash.update(bytes.get(hole.end..end)?);
    hash.finish().as_ref().get(..8)?.try_into().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            kind: Kind::Own,
            fingerprint: Fingerprint::of(Kind::Own, "v1.a", b"vault:v1:x"),
            secret: Zeroizing::new(vec![9; 32]),
            wrapped: b"vault:v1:x".to_vec(),
            made: 1_700_000_000,
            uses: 5,
        }
    }

    #[test]
    fn what_is_written_is_read_and_every_damaged_byte_is_noticed() {
        let mut slot = [0; RECORD];
        assert!(record().write(&mut slot));
        Record::set_uses(&mut slot, 6);
        let read = Record::read(&slot).unwrap();
        assert_eq!((read.kind, read.uses, read.made), (Kind::Own, 6, 1_700_000_000));
        assert_eq!((read.secret, read.wrapped), (record().secret, record().wrapped));
        for place in (0..RECORD).filter(|place| !USES.contains(place)) {
            let mut damaged = slot;
            damaged[place] ^= 1;
            assert!(Record::read(&damaged).is_none(), "byte {place}");
        }
        assert!(Record::read(&[0; RECORD]).is_none());
    }

    #[test]
    fn what_is_too_long_is_not_written() {
        let mut slot = [0; RECORD];
        assert!(!Record { secret: Zeroizing::new(vec![1; MAX_SECRET + 1]), ..record() }.write(&mut slot));
        assert!(!Record { wrapped: vec![1; MAX_WRAPPED + 1], ..record() }.write(&mut slot));
        assert_eq!(slot, [0; RECORD]);
    }

    #[test]
    fn a_seed_and_a_local_kek_have_other_fingerprints() {
        let of = |kind, key_id, wrapped: &[u8]| Fingerprint::of(kind, key_id, wrapped);
        assert_eq!(of(Kind::Own, "a", b"w"), of(Kind::Kek, "a", b"w"));
        assert_ne!(of(Kind::Seed, "a", b"w"), of(Kind::Kek, "a", b"w"));
        assert_ne!(of(Kind::Seed, "a", b"bw"), of(Kind::Seed, "ab", b"w"));
    }
}
