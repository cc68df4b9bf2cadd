//! What a local KEK leaves in etcd: a ciphertext and an annotation, each of which tells its format's version.
//!
//! ```text
//! ciphertext   "local-kek:v1:" nonce(12) AES-256-GCM(DEK seed) tag(16)
//! annotation   local-kek.kms-plugin.internal = "v1:" the local KEK, as the key service wrapped it
//! ```
//!
//! The seed's associated data binds the format, the key_id and the whole annotation; that of the local KEK
//! binds the format and the key_id. So neither can take the place of the other, nor of a seed that the key
//! service wrapped without such data. Every build reads this form, whether local KEKs are on or off. Must not
//! know where keys come from.

use std::collections::HashMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

/// The annotation's name.
pub const ANNOTATION: &str = "local-kek.kms-plugin.internal";
/// Bytes of a local KEK.
pub const KEY_BYTES: usize = 32;
/// How a ciphertext under a local KEK begins.
const MAGIC: &[u8] = b"local-kek:v1:";
/// How the annotation begins.
const ANNOTATION_FORM: &[u8] = b"v1:";
/// What a ciphertext and an annotation of any version of the format begin with.
const ANY_MAGIC: &[u8] = b"local-kek:";
const SEED_DOMAIN: &[u8] = b"kms-plugin DEK seed under a local KEK";
const KEK_DOMAIN: &[u8] = b"kms-plugin local KEK";
/// Bytes of an authentication tag.
const TAG_BYTES: usize = 16;

/// A local KEK in the clear.
pub type Key = Zeroizing<[u8; KEY_BYTES]>;

/// How a ciphertext was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form<'a> {
    /// By the key service itself.
    Direct,
    /// Under a local KEK.
    Local {
        /// The local KEK as the key service wrapped it.
        wrapped: &'a [u8],
    },
}

/// Why a ciphertext cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The ciphertext says that a local KEK made it, and the annotation is not there.
    #[error(
        "the ciphertext was made under a local KEK, and its annotation {ANNOTATION} is missing: it was damaged, or put together of two objects"
    )]
    Stripped,
    /// The annotation is there, and the ciphertext does not say that a local KEK made it.
    #[error(
        "the annotation {ANNOTATION} stands beside a ciphertext that no local KEK made: it was damaged, or put together of two objects"
    )]
    Added,
    /// A version of the format that this build does not know.
    #[error(
        "the local KEK's format is of a newer version than this build knows, or damaged: update kms-plugin"
    )]
    Unknown,
    /// The parts do not belong together, or are damaged.
    #[error(
        "the ciphertext does not belong to its key_id and annotation, or one of them is damaged: authentication failed"
    )]
    NotAuthentic,
    /// The cipher cannot be used.
    #[error("AES-GCM failed; report this as a bug")]
    Cipher,
}

/// Tells how a ciphertext was made: magic and annotation must say the same.
pub fn form<'a>(
    ciphertext: &[u8],
    annotations: &'a HashMap<String, Vec<u8>>,
) -> Result<Form<'a>, FormatError> {
    match (ciphertext.starts_with(ANY_MAGIC), annotations.get(ANNOTATION)) {
        (false, None) => Ok(Form::Direct),
        (true, None) => Err(FormatError::Stripped),
        (false, Some(_)) => Err(FormatError::Added),
        (true, Some(value)) => {
            let wrapped = value.strip_prefix(ANNOTATION_FORM).filter(|wrapped| !wrapped.is_empty());
            let wrapped = wrapped.filter(|_| ciphertext.starts_with(MAGIC)).ok_or(FormatError::Unknown)?;
            Ok(Form::Local { wrapped })
        }
    }
}

/// The annotation of a local KEK that the key service wrapped.
pub fn annotation(wrapped: &[u8]) -> Vec<u8> {
    [ANNOTATION_FORM, wrapped].concat()
}

/// The data that the key service binds a local KEK to, when it wraps it.
pub fn kek_data(key_id: &str) -> Vec<u8> {
    fields(&[KEK_DOMAIN, ANNOTATION_FORM, key_id.as_bytes()])
}

/// Wraps a DEK seed.
///
/// # Errors
/// When the cipher or the system's random bytes fail.
pub fn seal(key: &Key, key_id: &str, wrapped: &[u8], seed: &[u8]) -> Result<Vec<u8>, FormatError> {
    let cipher = RandomizedNonceKey::new(&AES_256_GCM, &**key).map_err(|_| FormatError::Cipher)?;
    let mut data = Zeroizing::new(Vec::with_capacity(seed.len() + TAG_BYTES));
    data.extend_from_slice(seed);
    let nonce = cipher
        .seal_in_place_append_tag(Aad::from(seed_data(key_id, wrapped)), &mut *data)
        .map_err(|_| FormatError::Cipher)?;
    Ok([MAGIC, nonce.as_ref(), &data].concat())
}

/// Unwraps a DEK seed.
///
/// # Errors
/// When anything of ciphertext, key_id or annotation is not as it was.
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
    let mut data = Zeroizing::new(sealed.to_vec());
    let opened = cipher.open_in_place(nonce, Aad::from(seed_data(key_id, wrapped)), &mut data);
    let length = opened.map_err(|_| FormatError::NotAuthentic)?.len();
    data.truncate(length);
    Ok(data)
}

fn seed_data(key_id: &str, wrapped: &[u8]) -> Vec<u8> {
    fields(&[SEED_DOMAIN, MAGIC, key_id.as_bytes(), &annotation(wrapped)])
}

/// A length in front of each field: no two lists of fields give the same bytes.
pub(super) fn fields(fields: &[&[u8]]) -> Vec<u8> {
    fields.iter().flat_map(|field| [&(field.len() as u64).to_be_bytes()[..], field].concat()).collect()
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
