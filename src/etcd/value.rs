//! Recognises a stored value by its first bytes: plain, or written by a transformer of the API server.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use prost::Message;

use crate::local_kek::format::{Form, FormatError, form};
use crate::local_kek::{Fingerprint, KeyKind};

/// The prefix of a KMS v2 value. The provider's name and a colon follow.
const KMS_V2: &[u8] = b"k8s:enc:kms:v2:";
/// The other transformers. The name of a key or provider and a colon follow.
const OTHERS: &[(&[u8], Transformer)] = &[
    (b"k8s:enc:kms:v1:", Transformer::KmsV1),
    (b"k8s:enc:aescbc:v1:", Transformer::AesCbc),
    (b"k8s:enc:aesgcm:v1:", Transformer::AesGcm),
    (b"k8s:enc:secretbox:v1:", Transformer::Secretbox),
];
/// The prefix of unencrypted protobuf.
pub(super) const PROTOBUF: &[u8] = b"k8s\0";
/// The prefix of every encrypted value.
pub(super) const ENCRYPTED: &[u8] = b"k8s:enc:";
/// Longest accepted name of a provider or key, in bytes.
const MAX_NAME: usize = 253;
/// Longest key_id, in bytes: the API server's limit.
const MAX_KEY_ID: usize = 1024;

/// The transformers other than KMS v2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Transformer {
    KmsV1,
    AesCbc,
    AesGcm,
    /// XSalsa20 and Poly1305.
    Secretbox,
}

impl Transformer {
    /// Its name in EncryptionConfiguration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KmsV1 => "kms v1",
            Self::AesCbc => "aescbc",
            Self::AesGcm => "aesgcm",
            Self::Secretbox => "secretbox",
        }
    }
}

/// What wrapped a DEK seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// The key service itself, or another plugin.
    Direct,
    /// A local KEK, which the key service wrapped.
    LocalKek,
}

impl Mode {
    /// For people.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::LocalKek => "local KEK",
        }
    }

    /// The stable name, for programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::LocalKek => "local_kek",
        }
    }
}

/// A stored value, without anything secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    KmsV2 {
        /// The provider's name in EncryptionConfiguration.
        provider: String,
        /// The plugin's key_id at the time of writing.
        key_id: String,
        mode: Mode,
        /// The version of the Transit key, where the wrapped key is a Transit ciphertext.
        transit_version: Option<u32>,
        /// Identifies the key that unwraps it, which an agent may have in memory.
        fingerprint: Fingerprint,
    },
    /// Another transformer, with the name of its key or provider.
    Other(Transformer, String),
    /// Not encrypted.
    Plain,
    /// None of these. Holds the reason.
    Unrecognised(&'static str),
}

/// The fields of `EncryptedObject` (k8s.io/apiserver, kmsv2) that are used.
#[derive(Clone, PartialEq, Message)]
struct EncryptedObject {
    #[prost(bytes = "bytes", tag = "1")]
    encrypted_data: Bytes,
    #[prost(string, tag = "2")]
    key_id: String,
    #[prost(bytes = "bytes", tag = "3")]
    encrypted_dek_source: Bytes,
    #[prost(map = "string, bytes", tag = "4")]
    annotations: HashMap<String, Vec<u8>>,
}

/// A wrapped DEK seed as the API server passes it to Decrypt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WrappedSeed {
    pub key_id: String,
    pub ciphertext: Bytes,
    pub annotations: BTreeMap<String, Vec<u8>>,
}

impl WrappedSeed {
    /// The wrapped seed of a value; `None` for a value that is not under KMS v2, or is damaged.
    pub(crate) fn of(value: &[u8]) -> Option<Self> {
        let (_, message) = named(value.strip_prefix(KMS_V2)?)?;
        let object = EncryptedObject::decode(Bytes::copy_from_slice(message)).ok()?;
        Some(Self {
            key_id: object.key_id,
            // A copy: otherwise the whole value stays in memory.
            ciphertext: Bytes::copy_from_slice(&object.encrypted_dek_source),
            annotations: object.annotations.into_iter().collect(),
        })
    }
}

impl Stored {
    pub(crate) fn parse(value: &[u8]) -> Self {
        if let Some(rest) = value.strip_prefix(KMS_V2) {
            return kms_v2(rest).unwrap_or_else(Self::Unrecognised);
        }
        for (prefix, transformer) in OTHERS {
            if let Some(rest) = value.strip_prefix(*prefix) {
                return match named(rest) {
                    Some((name, _)) => Self::Other(*transformer, name),
                    None => Self::Unrecognised("damaged: no name"),
                };
            }
        }
        match value {
            [] => Self::Unrecognised("empty"),
            value if value.starts_with(ENCRYPTED) => Self::Unrecognised("unknown transformer"),
            value if value.starts_with(PROTOBUF) || value.starts_with(b"{") => Self::Plain,
            _ => Self::Unrecognised("neither protobuf nor JSON"),
        }
    }
}

fn kms_v2(rest: &[u8]) -> Result<Stored, &'static str> {
    let (provider, message) = named(rest).ok_or("damaged: no provider")?;
    let object = EncryptedObject::decode(Bytes::copy_from_slice(message))
        .map_err(|_| "damaged: not a KMS v2 object")?;
    if object.encrypted_data.is_empty() || object.encrypted_dek_source.is_empty() {
        return Err("damaged: parts are missing");
    }
    if object.key_id.is_empty() || object.key_id.len() > MAX_KEY_ID {
        return Err("damaged: no key_id");
    }
    let seed = &object.encrypted_dek_source;
    let (mode, kind, wrapped) = match form(seed, &object.annotations).map_err(unreadable)? {
        Form::Direct => (Mode::Direct, KeyKind::Seed, &**seed),
        Form::Local { wrapped } => (Mode::LocalKek, KeyKind::Kek, wrapped),
    };
    let transit_version = transit_version(wrapped);
    let fingerprint = Fingerprint::of(kind, &object.key_id, wrapped);
    Ok(Stored::KmsV2 { provider, key_id: object.key_id, mode, transit_version, fingerprint })
}

fn unreadable(error: FormatError) -> &'static str {
    match error {
        FormatError::Stripped => "damaged: a local KEK's annotation is missing",
        FormatError::Added => "damaged: a local KEK's annotation beside another ciphertext",
        FormatError::Unknown => "damaged, or a local KEK's format of a newer kms-plugin",
        FormatError::NotAuthentic | FormatError::Cipher => "damaged",
    }
}

/// The name before a colon, and the bytes after it.
fn named(rest: &[u8]) -> Option<(String, &[u8])> {
    let end = rest.iter().take(MAX_NAME + 1).position(|byte| *byte == b':').filter(|end| *end > 0)?;
    let (name, rest) = rest.split_at_checked(end)?;
    Some((std::str::from_utf8(name).ok()?.to_owned(), rest.get(1..)?))
}

/// N of `vault:vN:…`.
fn transit_version(ciphertext: &[u8]) -> Option<u32> {
    let rest = ciphertext.strip_prefix(b"vault:v")?;
    let end = rest.iter().take(11).position(|byte| *byte == b':')?;
    std::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::local_kek::format::ANNOTATION;

    fn object(key_id: &str, dek: &[u8]) -> Vec<u8> {
        annotated(key_id, dek, &[])
    }

    fn annotated(key_id: &str, dek: &[u8], annotations: &[(&str, &[u8])]) -> Vec<u8> {
        let annotations = annotations.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec()));
        let object = EncryptedObject {
            annotations: annotations.collect(),
            encrypted_data: Bytes::from_static(b"ciphertext: not read"),
            key_id: key_id.into(),
            encrypted_dek_source: Bytes::copy_from_slice(dek),
        };
        [b"k8s:enc:kms:v2:kms-plugin:", object.encode_to_vec().as_slice()].concat()
    }

    /// In direct mode.
    fn kms(dek: &[u8], transit_version: Option<u32>) -> Stored {
        let fingerprint = Fingerprint::of(KeyKind::Seed, "v1.abc", dek);
        Stored::KmsV2 {
            provider: "kms-plugin".into(),
            key_id: "v1.abc".into(),
            mode: Mode::Direct,
            transit_version,
            fingerprint,
        }
    }

    #[test]
    fn each_form_is_recognised() {
        let unrecognised = Stored::Unrecognised;
        let other = |transformer, name: &str| Stored::Other(transformer, name.into());
        for (value, expected) in [
            (object("v1.abc", b"vault:v12:AAAA"), kms(b"vault:v12:AAAA", Some(12))),
            (object("v1.abc", b"\x01\x02 another plugin's"), kms(b"\x01\x02 another plugin's", None)),
            (object("v1.abc", b"vault:vx:AAAA"), kms(b"vault:vx:AAAA", None)),
            (object("v1.abc", b"vault:v99999999999:A"), kms(b"vault:v99999999999:A", None)),
            (b"k8s:enc:kms:v1:old:\x00\x01".to_vec(), other(Transformer::KmsV1, "old")),
            (b"k8s:enc:aescbc:v1:key1:\x00".to_vec(), other(Transformer::AesCbc, "key1")),
            (b"k8s:enc:aesgcm:v1:key1:\x00".to_vec(), other(Transformer::AesGcm, "key1")),
            (b"k8s:enc:secretbox:v1:key1:\x00".to_vec(), other(Transformer::Secretbox, "key1")),
            (b"k8s\0\n\x0c".to_vec(), Stored::Plain),
            (b"{\"kind\":\"Secret\"}".to_vec(), Stored::Plain),
            (b"".to_vec(), unrecognised("empty")),
            (b"k8s:enc:rot13:v1:key1:".to_vec(), unrecognised("unknown transformer")),
            (b"hello".to_vec(), unrecognised("neither protobuf nor JSON")),
            (b"k8s:enc:aescbc:v1:".to_vec(), unrecognised("damaged: no name")),
            (b"k8s:enc:kms:v2::\x0a".to_vec(), unrecognised("damaged: no provider")),
            (b"k8s:enc:kms:v2:p:".to_vec(), unrecognised("damaged: parts are missing")),
            (b"k8s:enc:kms:v2:p:\xff\xff".to_vec(), unrecognised("damaged: not a KMS v2 object")),
            (object("", b"vault:v1:A"), unrecognised("damaged: no key_id")),
            (object(&"k".repeat(1025), b"vault:v1:A"), unrecognised("damaged: no key_id")),
            (
                [b"k8s:enc:kms:v2:".as_slice(), &[b'p'; 300], b":"].concat(),
                unrecognised("damaged: no provider"),
            ),
        ] {
            assert_eq!(Stored::parse(&value), expected, "{}", String::from_utf8_lossy(&value));
        }
    }

    #[test]
    fn a_local_kek_is_recognised_by_ciphertext_and_annotation() {
        let stored = |dek: &[u8], annotations: &[(&str, &[u8])]| {
            Stored::parse(&annotated("v1.abc", dek, &[annotations, &[("another.example", b"1")]].concat()))
        };
        let (sealed, wrapped) = (b"local-kek:v1:nonce and the rest", b"v1:vault:v3:AAAA");
        assert_eq!(
            stored(sealed, &[(ANNOTATION, wrapped)]),
            Stored::KmsV2 {
                provider: "kms-plugin".into(),
                key_id: "v1.abc".into(),
                mode: Mode::LocalKek,
                transit_version: Some(3),
                fingerprint: Fingerprint::of(KeyKind::Kek, "v1.abc", b"vault:v3:AAAA"),
            }
        );
        assert_eq!(stored(b"vault:v1:AAAA", &[]), kms(b"vault:v1:AAAA", Some(1)));
        for (dek, annotations, why) in [
            (&sealed[..], &[][..], "damaged: a local KEK's annotation is missing"),
            (
                b"vault:v1:AAAA",
                &[(ANNOTATION, &wrapped[..])],
                "damaged: a local KEK's annotation beside another ciphertext",
            ),
            (
                b"local-kek:v2:later",
                &[(ANNOTATION, &wrapped[..])],
                "damaged, or a local KEK's format of a newer kms-plugin",
            ),
            (sealed, &[(ANNOTATION, b"v2:later")], "damaged, or a local KEK's format of a newer kms-plugin"),
        ] {
            assert_eq!(stored(dek, annotations), Stored::Unrecognised(why));
        }
    }

    #[test]
    fn unknown_fields_of_a_newer_api_server_are_ignored() {
        let mut value = object("v1.abc", b"vault:v1:A");
        // annotations = 4 (one entry), encryptedDEKSourceType = 5, and a field 9 that does not exist yet.
        value.extend_from_slice(b"\x22\x06\x0a\x01a\x12\x01b\x28\x01\x4a\x02hi");
        assert_eq!(Stored::parse(&value), kms(b"vault:v1:A", Some(1)));
    }

    #[test]
    fn a_truncated_value_is_not_recognised() {
        let value = object("v1.abc", b"vault:v1:AAAA");
        for length in 0..value.len() {
            let parsed = Stored::parse(&value[..length]);
            // A value that is truncated inside its last field cannot be decoded.
            assert!(matches!(parsed, Stored::Unrecognised(_)), "{length}: {parsed:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0usize..7) {
            let prefixes: [&[u8]; 7] =
                [b"", b"k8s:enc:kms:v2:p:", b"k8s:enc:kms:v2:", b"k8s:enc:kms:v1:", b"k8s:enc:", b"k8s\0", b"{"];
            let parsed = Stored::parse(&[prefixes[kind], &bytes].concat());
            if kind >= 5 {
                prop_assert_eq!(parsed, Stored::Plain);
            }
        }

        #[test]
        fn what_is_written_is_read(key_id in "[a-zA-Z0-9._-]{1,60}", version in any::<u32>(), tail in ".{0,40}") {
            let dek = format!("vault:v{version}:{tail}");
            let value = object(&key_id, dek.as_bytes());
            let fingerprint = Fingerprint::of(KeyKind::Seed, &key_id, dek.as_bytes());
            prop_assert_eq!(Stored::parse(&value), Stored::KmsV2 {
                provider: "kms-plugin".into(),
                key_id,
                mode: Mode::Direct,
                transit_version: Some(version),
                fingerprint,
            });
        }
    }
}
