//! The limits of the KMS v2 contract, checked before a request is handled and before an answer is sent. They are
//! those of kube-apiserver (k8s.io/apiserver, envelope/kmsv2): it does not write an object when an answer exceeds
//! them.

use std::collections::HashMap;

use tonic::Status;

use crate::untrusted;

/// Longest ciphertext, in bytes.
const MAX_CIPHERTEXT: usize = 1024;
/// Longest key_id, in bytes.
const MAX_KEY_ID: usize = 1024;
/// Longest sum of annotation keys and values, in bytes.
const MAX_ANNOTATIONS: usize = 32 * 1024;
/// Longest DEK seed, in bytes. kube-apiserver sends 32. A longer one than this could give a ciphertext beyond its
/// limit.
const MAX_PLAINTEXT: usize = 512;
/// Longest uid, in bytes; kube-apiserver sends a UUID.
const MAX_UID: usize = 256;
/// How much of a key_id is shown, in bytes.
const MAX_SHOWN: usize = 64;

fn invalid(message: String) -> Status {
    Status::invalid_argument(message)
}

/// The beginning of the key_id of a request, for people.
pub(super) fn shown(key_id: &str) -> String {
    let mut shown = untrusted::text(key_id);
    let end = (0..=MAX_SHOWN.min(shown.len())).rev().find(|end| shown.is_char_boundary(*end));
    shown.truncate(end.unwrap_or_default());
    shown
}

/// Checks an Encrypt request.
pub(super) fn encrypt(plaintext: &[u8], uid: &str) -> Result<(), Status> {
    self::uid(uid)?;
    match plaintext.len() {
        0 => Err(invalid("the plaintext is empty: there is no DEK seed to wrap".into())),
        1..=MAX_PLAINTEXT => Ok(()),
        length => {
            Err(invalid(format!("the plaintext has {length} bytes, a DEK seed has at most {MAX_PLAINTEXT}")))
        }
    }
}

/// Checks a Decrypt request.
pub(super) fn decrypt(
    ciphertext: &[u8],
    key_id: &str,
    annotations: &HashMap<String, Vec<u8>>,
    uid: &str,
) -> Result<(), Status> {
    self::uid(uid)?;
    self::ciphertext(ciphertext).map_err(invalid)?;
    match key_id.len() {
        0 => {
            return Err(invalid(
                "the key_id is empty, so the key that made the ciphertext is not known".into(),
            ));
        }
        1..=MAX_KEY_ID => {}
        length => return Err(invalid(format!("the key_id has {length} bytes, the limit is {MAX_KEY_ID}"))),
    }
    let size: usize = annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > MAX_ANNOTATIONS {
        return Err(invalid(format!("the annotations have {size} bytes, the limit is {MAX_ANNOTATIONS}")));
    }
    match annotations.keys().find(|name| !is_qualified(name)) {
        Some(name) => {
            let shown = untrusted::text(name);
            Err(invalid(format!("the annotation name {shown:?} is not a fully qualified DNS name")))
        }
        None => Ok(()),
    }
}

/// Checks a ciphertext: of a caller, or ours before it is sent.
pub(super) fn ciphertext(ciphertext: &[u8]) -> Result<(), String> {
    match ciphertext.len() {
        0 => Err("the ciphertext is empty".into()),
        1..=MAX_CIPHERTEXT => Ok(()),
        length => Err(format!("the ciphertext has {length} bytes, the limit is {MAX_CIPHERTEXT}")),
    }
}

fn uid(uid: &str) -> Result<(), Status> {
    if uid.len() > MAX_UID {
        return Err(invalid(format!("the uid has {} bytes, the limit is {MAX_UID}", uid.len())));
    }
    Ok(())
}

/// At least two labels of RFC 1123, and at most 253 bytes: the validation of the API server.
fn is_qualified(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|byte| inner(*byte) || *byte == b'-')
            && bytes.first().is_some_and(|byte| inner(*byte))
            && bytes.last().is_some_and(|byte| inner(*byte))
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.len() <= 253 && name.contains('.') && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(name: &str, length: usize) -> HashMap<String, Vec<u8>> {
        HashMap::from([(name.to_owned(), vec![0; length])])
    }

    #[test]
    fn each_limit_is_exact_to_the_byte() {
        let none = HashMap::new();
        assert!(encrypt(&[], "u").is_err());
        assert!(encrypt(&[0; MAX_PLAINTEXT], "u").is_ok());
        assert!(encrypt(&[0; MAX_PLAINTEXT + 1], "u").is_err());
        assert!(encrypt(&[0; 32], &"u".repeat(257)).is_err());
        assert!(decrypt(&[0; 1024], "k", &none, "u").is_ok());
        assert!(decrypt(&[0; 1025], "k", &none, "u").is_err());
        assert!(decrypt(&[], "k", &none, "u").is_err());
        assert!(decrypt(&[0], "", &none, "u").is_err());
        assert!(decrypt(&[0], &"k".repeat(1024), &none, "u").is_ok());
        assert!(decrypt(&[0], &"k".repeat(1025), &none, "u").is_err());
        let name = "kek.example.com";
        assert!(decrypt(&[0], "k", &annotations(name, MAX_ANNOTATIONS - name.len()), "u").is_ok());
        assert!(decrypt(&[0], "k", &annotations(name, MAX_ANNOTATIONS - name.len() + 1), "u").is_err());
    }

    #[test]
    fn annotation_names_are_fully_qualified() {
        for good in ["a.b", "kek.example.com", "a-1.b-2.c", "example.com."] {
            assert!(is_qualified(good), "{good}");
        }
        let long = format!("{}.com", "a".repeat(64));
        for bad in ["", "a", "local", "A.b", "a..b", ".a.b", "-a.b", "a-.b", "a_b.c", "a.b/c", long.as_str()]
        {
            assert!(!is_qualified(bad), "{bad}");
        }
    }
}
