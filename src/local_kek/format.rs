//! What a local KEK leaves in etcd: a ciphertext and an annotation. Each begins with the version of its format.
//!
//! ```text
//! ciphertext   "local-kek:v1:" nonce(12) AES-256-GCM(DEK seed) tag(16)
//! annotation   local-kek.kms-plugin.internal = "v1:" wrapped local KEK, from the key service
//! ```
//!
//! The AAD of a seed contains the format, the key_id and the whole annotation. The AAD of a local KEK contains the
//! format and the key_id. So nobody can put a wrapped seed in the place of a wrapped local KEK, or the other way
//! round. The same holds for a seed that the key service wrapped without AAD. Every build reads this format, whether
//! local KEKs are on or off. Must not know where keys come from.

use std::collections::HashMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

/// Name of the annotation.
pub const ANNOTATION: &str = "local-kek.kms-plugin.internal";
/// Length of a local KEK, in bytes.
pub const KEY_BYTES: usize = 32;
/// First bytes of a ciphertext under a local KEK.
const MAGIC: &[u8] = b"local-kek:v1:";
/// First bytes of the annotation's value.
const ANNOTATION_VERSION: &[u8] = b"v1:";
/// First bytes of a ciphertext in any version of the format.
const ANY_MAGIC: &[u8] = b"local-kek:";
const SEED_DOMAIN: &[u8] = b"kms-plugin DEK seed under a local KEK";
const KEK_DOMAIN: &[u8] = b"kms-plugin local KEK";
/// Length of an authentication tag, in bytes.
const TAG_BYTES: usize = 16;

/// A local KEK in plain text.
pub type Key = Zeroizing<[u8; KEY_BYTES]>;

/// How a DEK seed was wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form<'a> {
    /// By the key service itself (direct mode).
    Direct,
    /// Under a local KEK.
    Local {
        /// The wrapped local KEK.
        wrapped: &'a [u8],
    },
}

/// Why a ciphertext cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The ciphertext was made under a local KEK, but the annotation is missing.
    #[error(
        "the ciphertext was made under a local KEK, but its annotation {ANNOTATION} is missing: the object is damaged, or was combined from two objects"
    )]
    Stripped,
    /// The annotation is present, but the ciphertext was not made under a local KEK.
    #[error(
        "the annotation {ANNOTATION} is present, but the ciphertext was not made under a local KEK: the object is damaged, or was combined from two objects"
    )]
    Added,
    /// A version of the format that this build does not know.
    #[error("the local KEK's format is damaged, or newer than this version of kms-plugin: update kms-plugin")]
    Unknown,
    /// The parts do not belong together, or one of them is damaged.
    #[error(
        "the ciphertext does not belong to its key_id and annotation, or one of them is damaged: authentication failed"
    )]
    NotAuthentic,
    /// The cipher, or the system's random generator, failed.
    #[error("AES-GCM failed; report this as a bug")]
    Cipher,
}

/// How a DEK seed was wrapped. The first bytes of the ciphertext and the annotation must agree.
pub fn form<'a>(
    ciphertext: &[u8],
    annotations: &'a HashMap<String, Vec<u8>>,
) -> Result<Form<'a>, FormatError> {
    match (ciphertext.starts_with(ANY_MAGIC), annotations.get(ANNOTATION)) {
        (false, None) => Ok(Form::Direct),
        (true, None) => Err(FormatError::Stripped),
        (false, Some(_)) => Err(FormatError::Added),
        (true, Some(value)) => {
            let wrapped = value.strip_prefix(ANNOTATION_VERSION).filter(|wrapped| !wrapped.is_empty());
            let wrapped = wrapped.filter(|_| ciphertext.starts_with(MAGIC)).ok_or(FormatError::Unknown)?;
            Ok(Form::Local { wrapped })
        }
    }
}

/// The annotation's value for a wrapped local KEK.
pub fn annotation(wrapped: &[u8]) -> Vec<u8> {
    [ANNOTATION_VERSION, wrapped].concat()
}

/// The AAD of a local KEK: the key service needs it to unwrap.
pub fn kek_aad(key_id: &str) -> Vec<u8> {
    fields(&[KEK_DOMAIN, ANNOTATION_VERSION, key_id.as_bytes()])
}

/// Wraps a DEK seed with the local KEK `key`; `wrapped` is the same key as the key service wrapped it.
///
/// # Errors
/// When the cipher or the system's random bytes fail.
pub fn seal(key: &Key, key_id: &str, wrapped: &[u8], seed: &[u8]) -> Result<Vec<u8>, FormatError> {
    let cipher = RandomizedNonceKey::new(&AES_256_GCM, &**key).map_err(|_| FormatError::Cipher)?;
    let mut sealed = Zeroizing::new(Vec::with_capacity(seed.len() + TAG_BYTES));
    sealed.extend_from_slice(seed);
    let nonce = cipher
        .seal_in_place_append_tag(Aad::from(seed_aad(key_id, wrapped)), &mut *sealed)
        .map_err(|_| FormatError::Cipher)?;
    Ok([MAGIC, nonce.as_ref(), &sealed].concat())
}

/// Unwraps a DEK seed with the local KEK `key`.
///
/// # Errors
/// When ciphertext, key_id or annotation differ from those of [`seal`].
pub fn open(
    key: &Key,
    key_id: &str,
    wrapped: &[u8],
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>, FormatError> {
    let sealed = ciphertext.strip_prefix(MAGIC).ok_or(FormatError::Unknown)?;
    let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN).ok_or(FormatError::NotAuthentic)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| FormatError::NotAuthentic)?;
    let cipher = RandomizedNonceKey::new(&AES_256_GCM, &**key).map_err(|_| FormatError::Cipher)?;
    let mut seed = Zeroizing::new(sealed.to_vec());
    let opened = cipher.open_in_place(nonce, Aad::from(seed_aad(key_id, wrapped)), &mut seed);
    let length = opened.map_err(|_| FormatError::NotAuthentic)?.len();
    seed.truncate(length);
    Ok(seed)
}

fn seed_aad(key_id: &str, wrapped: &[u8]) -> Vec<u8> {
    fields(&[SEED_DOMAIN, MAGIC, key_id.as_bytes(), &annotation(wrapped)])
}

/// Joins fields, each with its length in front: two different lists never give the same bytes.
pub(super) fn fields(fields: &[&[u8]]) -> Vec<u8> {
    fields.iter().flat_map(|field| [&(field.len() as u64).to_be_bytes()[..], field].concat()).collect()
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
