//! A Transit key of the model: its versions and limits; encrypts, decrypts, and describes itself.
//!
//! A ciphertext shows which key made it (`material_of`), so that the oracle can tell two keys with the same name
//! apart. A decryption by another key fails, as with a real one.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::words;
use crate::retry::simulated::mix;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Version {
    /// In seconds since 1970.
    pub created: i64,
    /// Stands for the key's bytes: every version of every key has another one.
    pub material: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Key {
    pub versions: BTreeMap<u32, Version>,
    pub min_encryption: u32,
    pub min_decryption: u32,
    pub soft_deleted: bool,
}

/// Status and text of a refusal.
pub(super) type Refused = (u16, &'static str);

impl Key {
    pub(in super::super) fn new(first: Version) -> Self {
        Self {
            versions: BTreeMap::from([(1, first)]),
            min_encryption: 0,
            min_decryption: 1,
            soft_deleted: false,
        }
    }

    pub(in super::super) fn latest(&self) -> u32 {
        self.versions.keys().next_back().copied().unwrap_or_default()
    }

    pub(in super::super) fn rotate(&mut self, version: Version) {
        self.versions.insert(self.latest() + 1, version);
    }

    pub(super) fn encrypt(&self, version: u32, plaintext: &[u8], aad: &[u8]) -> Result<String, Refused> {
        let version = if version == 0 { self.latest() } else { version };
        if version > self.latest() {
            return Err((400, words::VERSION_AHEAD));
        }
        if version < self.min_encryption.max(self.min_decryption) {
            return Err((400, words::BELOW_MIN_ENCRYPTION));
        }
        let material = self.versions[&version].material;
        let mut bytes = material.to_be_bytes().to_vec();
        bytes.extend_from_slice(&hash(aad).to_be_bytes());
        bytes.extend_from_slice(&mix(material ^ hash(plaintext)).to_be_bytes());
        bytes.extend_from_slice(plaintext);
        Ok(format!("vault:v{version}:{}", STANDARD.encode(bytes)))
    }

    pub(super) fn decrypt(&self, ciphertext: &str, aad: &[u8]) -> Result<Vec<u8>, Refused> {
        let damaged = (400, words::NOT_AUTHENTIC);
        let (version, bytes) = parse(ciphertext).ok_or(damaged)?;
        if version > self.latest() {
            return Err((400, words::TOO_NEW));
        }
        if version < self.min_decryption {
            return Err((400, words::TOO_OLD));
        }
        let material = self.versions[&version].material.to_be_bytes();
        if bytes.len() < 24 || bytes[..8] != material || bytes[8..16] != hash(aad).to_be_bytes() {
            return Err(damaged);
        }
        Ok(bytes[24..].to_vec())
    }

    /// A seed that this key wrapped.
    pub(in super::super) fn encrypt_seed(&self, seed: &[u8]) -> Vec<u8> {
        self.encrypt(0, seed, &[]).unwrap().into_bytes()
    }

    /// `data` of `GET transit/keys/NAME`.
    pub(super) fn metadata(&self, name: &str) -> Value {
        let shown = self.versions.iter().filter(|(version, _)| **version >= self.min_decryption);
        let keys: BTreeMap<String, i64> =
            shown.map(|(version, made)| (version.to_string(), made.created)).collect();
        json!({ "allow_plaintext_backup": false, "auto_rotate_period": 0, "deletion_allowed": false,
            "derived": false, "exportable": false, "imported_key": false, "keys": keys,
            "latest_version": self.latest(), "min_available_version": 0,
            "min_decryption_version": self.min_decryption, "min_encryption_version": self.min_encryption,
            "name": name, "soft_deleted": self.soft_deleted, "supports_decryption": true,
            "supports_derivation": true, "supports_encryption": true, "supports_signing": false,
            "type": "aes256-gcm96" })
    }
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |hash, byte| mix(hash ^ u64::from(*byte)))
}

fn parse(ciphertext: &str) -> Option<(u32, Vec<u8>)> {
    let (version, data) = ciphertext.strip_prefix("vault:v")?.split_once(':')?;
    Some((version.parse().ok()?, STANDARD.decode(data).ok()?))
}

/// Which key made a ciphertext.
pub(in super::super) fn material_of(ciphertext: &[u8]) -> Option<u64> {
    let (_, bytes) = parse(std::str::from_utf8(ciphertext).ok()?)?;
    Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?))
}
