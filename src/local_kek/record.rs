//! The byte layout of one cached key in protected memory. The next version of the program must be able to read it.
//!
//! ```text
//!   0 kind(1) secret length(1) wrapped length(2) zero(4)
//!   8 uses(8)           not in the checksum: it changes with each use
//!  16 made, unix seconds(8)
//!  24 fingerprint(32)
//!  56 secret(64)
//! 120 wrapped key(128), only of a local KEK that this agent made
//! 248 checksum(8): SHA-256 over the rest, without the uses
//! ```

use std::ops::Range;

use aws_lc_rs::digest::{Context, SHA256, digest};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use super::format::{fields, kek_aad};

/// Length of a record, in bytes.
pub(super) const RECORD: usize = 256;
/// Longest secret that is cached, in bytes. A DEK seed has 32.
pub(super) const MAX_SECRET: usize = 64;
/// Longest wrapped local KEK, in bytes. Transit's has about 90.
pub(super) const MAX_WRAPPED: usize = 128;
const USES: Range<usize> = 8..16;
const CHECKSUM: usize = 248;
const DOMAIN: &[u8] = b"kms-plugin kept key";

/// What kind of key is cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum KeyKind {
    /// A local KEK that this agent made and wraps with. When the agent makes a new one for the same key version, the
    /// old one becomes [`KeyKind::Kek`]. Only records in memory have this kind, wrapped keys in etcd do not.
    Current,
    /// A local KEK that only unwraps: another agent made it, or this agent made it and has a newer one.
    Kek,
    /// A DEK seed that the key service itself wrapped (direct mode).
    Seed,
}

impl KeyKind {
    fn code(self) -> u8 {
        match self {
            Self::Current => 1,
            Self::Kek => 2,
            Self::Seed => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Current, Self::Kek, Self::Seed].into_iter().find(|kind| kind.code() == code)
    }

    /// The AAD with which the key service wraps a key of this kind; empty means none.
    pub(super) fn aad(self, key_id: &str) -> Vec<u8> {
        if self == Self::Seed { Vec::new() } else { kek_aad(key_id) }
    }
}

/// SHA-256 over kind, key_id and ciphertext of a wrapped key. The cache finds keys by it. It is not secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint(pub(super) [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a wrapped key under `key_id`. `Current` and `Kek` give the same one.
    pub(crate) fn of(kind: KeyKind, key_id: &str, wrapped: &[u8]) -> Self {
        let kind: &[u8] = if kind == KeyKind::Seed { b"seed" } else { b"kek" };
        let hash = digest(&SHA256, &fields(&[DOMAIN, kind, key_id.as_bytes(), wrapped]));
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hash.as_ref());
        Self(bytes)
    }

    /// 64 hexadecimal digits.
    pub(crate) fn hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }
}

/// A cached key.
pub(super) struct Record {
    pub kind: KeyKind,
    pub fingerprint: Fingerprint,
    pub secret: Zeroizing<Vec<u8>>,
    /// The wrapped key, if this agent made the key; else empty.
    pub wrapped: Vec<u8>,
    /// When this agent made the key, in seconds since 1970; 0 if another one did.
    pub made: i64,
    /// How many seeds the key has wrapped.
    pub uses: u64,
}

impl Record {
    /// Reads the record in `slot`; `None` when the slot is empty or damaged.
    pub(super) fn read(slot: &[u8]) -> Option<Self> {
        let kind = KeyKind::from_code(*slot.first()?)?;
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

    /// Writes the number of uses into `slot`.
    pub(super) fn set_uses(slot: &mut [u8], uses: u64) {
        if let Some(field) = slot.get_mut(USES) {
            field.copy_from_slice(&uses.to_le_bytes());
        }
    }
}

/// The first 8 bytes of SHA-256 over `bytes` up to `end`, without the range `excluded`, which changes at any time.
pub(super) fn checksum(bytes: &[u8], excluded: Range<usize>, end: usize) -> Option<[u8; 8]> {
    let mut hash = Context::new(&SHA256);
    hash.update(bytes.get(..excluded.start)?);
    hash.update(bytes.get(excluded.end..end)?);
    hash.finish().as_ref().get(..8)?.try_into().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            kind: KeyKind::Current,
            fingerprint: Fingerprint::of(KeyKind::Current, "v1.a", b"vault:v1:x"),
            secret: Zeroizing::new(vec![9; 32]),
            wrapped: b"vault:v1:x".to_vec(),
            made: 1_700_000_000,
            uses: 5,
        }
    }

    #[test]
    fn a_record_can_be_read_again_and_each_damaged_byte_is_noticed() {
        let mut slot = [0; RECORD];
        assert!(record().write(&mut slot));
        Record::set_uses(&mut slot, 6);
        let read = Record::read(&slot).unwrap();
        assert_eq!((read.kind, read.uses, read.made), (KeyKind::Current, 6, 1_700_000_000));
        assert_eq!((read.secret, read.wrapped), (record().secret, record().wrapped));
        for place in (0..RECORD).filter(|place| !USES.contains(place)) {
            let mut damaged = slot;
            damaged[place] ^= 1;
            assert!(Record::read(&damaged).is_none(), "byte {place}");
        }
        assert!(Record::read(&[0; RECORD]).is_none());
    }

    #[test]
    fn a_record_that_is_too_long_is_not_written() {
        let mut slot = [0; RECORD];
        assert!(!Record { secret: Zeroizing::new(vec![1; MAX_SECRET + 1]), ..record() }.write(&mut slot));
        assert!(!Record { wrapped: vec![1; MAX_WRAPPED + 1], ..record() }.write(&mut slot));
        assert_eq!(slot, [0; RECORD]);
    }

    #[test]
    fn a_seed_and_a_local_kek_have_different_fingerprints() {
        let of = |kind, key_id, wrapped: &[u8]| Fingerprint::of(kind, key_id, wrapped);
        assert_eq!(of(KeyKind::Current, "a", b"w"), of(KeyKind::Kek, "a", b"w"));
        assert_ne!(of(KeyKind::Seed, "a", b"w"), of(KeyKind::Kek, "a", b"w"));
        assert_ne!(of(KeyKind::Seed, "a", b"bw"), of(KeyKind::Seed, "ab", b"w"));
    }
}
