//! The format in etcd: it must never change, and damaged or exchanged parts must be refused.

use proptest::prelude::*;

use super::*;

const KEY_ID: &str = "v1.QeTxbHHjBpwm7K9MuCx3-cMH28AKRCzwI1IDzRXiU3c";
const WRAPPED: &[u8] = b"vault:v3:AAECAwQF";

fn key() -> Key {
    Key::new(std::array::from_fn(|place| place as u8))
}

fn bytes(hex: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap()
}

fn annotated(value: &[u8]) -> HashMap<String, Vec<u8>> {
    HashMap::from([(ANNOTATION.to_owned(), value.to_vec())])
}

/// Computed with another implementation (Python's cryptography). Every object in every etcd depends on them.
#[test]
fn golden_vectors() {
    let ciphertext = bytes(
        "6c6f63616c2d6b656b3a76313a6465666768696a6b6c6d6e6f80d214adb5249851eeb38d3b0eb0bc2a9a1bdcd157b12dad47304eab1f4643af852c5dea1ab7b9695b1e724c83cdea29",
    );
    let seed: Vec<u8> = (200..232).collect();
    assert_eq!(*open(&key(), KEY_ID, WRAPPED, &ciphertext).unwrap(), seed);
    assert_eq!(annotation(WRAPPED), b"v1:vault:v3:AAECAwQF");
    assert_eq!(
        kek_aad(KEY_ID),
        bytes(
            "00000000000000146b6d732d706c7567696e206c6f63616c204b454b000000000000000376313a000000000000002e76312e516554786248486a4270776d374b394d754378332d634d483238414b52437a77493149447a525869553363"
        )
    );
}

#[test]
fn every_damaged_byte_is_refused() {
    let ciphertext = seal(&key(), KEY_ID, WRAPPED, &[7; 32]).unwrap();
    for place in 0..ciphertext.len() {
        let mut damaged = ciphertext.clone();
        damaged[place] ^= 1;
        assert!(open(&key(), KEY_ID, WRAPPED, &damaged).is_err(), "byte {place} of the ciphertext");
        assert!(open(&key(), KEY_ID, WRAPPED, &ciphertext[..place]).is_err(), "{place} bytes of it");
    }
    for place in 0..WRAPPED.len() {
        let mut damaged = WRAPPED.to_vec();
        damaged[place] ^= 1;
        assert!(open(&key(), KEY_ID, &damaged, &ciphertext).is_err(), "byte {place} of the annotation");
    }
    for place in 0..KEY_ID.len() {
        let mut damaged = KEY_ID.as_bytes().to_vec();
        damaged[place] ^= 1;
        let damaged = String::from_utf8(damaged).unwrap();
        assert!(open(&key(), &damaged, WRAPPED, &ciphertext).is_err(), "byte {place} of the key_id");
    }
    let mut other = key();
    other[0] ^= 1;
    assert_eq!(open(&other, KEY_ID, WRAPPED, &ciphertext), Err(FormatError::NotAuthentic));
}

#[test]
fn the_first_bytes_and_the_annotation_must_agree() {
    let (local, direct) = (seal(&key(), KEY_ID, WRAPPED, &[7; 32]).unwrap(), b"vault:v1:AAAA".to_vec());
    let (none, ours) = (HashMap::new(), annotated(&annotation(WRAPPED)));
    assert_eq!(form(&direct, &none), Ok(Form::Direct));
    assert_eq!(form(&local, &ours), Ok(Form::Local { wrapped: WRAPPED }));
    assert_eq!(form(&local, &none), Err(FormatError::Stripped));
    assert_eq!(form(&direct, &ours), Err(FormatError::Added));
    let elsewhere = HashMap::from([("kek.example.com".to_owned(), annotation(WRAPPED))]);
    assert_eq!(form(&direct, &elsewhere), Ok(Form::Direct));
    assert_eq!(form(&local, &elsewhere), Err(FormatError::Stripped));
    for strange in [&b""[..], b"v1:", b"v2:vault:v1:AAAA", b"vault:v1:AAAA"] {
        assert_eq!(form(&local, &annotated(strange)), Err(FormatError::Unknown), "{strange:?}");
    }
    let newer = [b"local-kek:v2:".as_slice(), &[0; 60]].concat();
    assert_eq!(form(&newer, &ours), Err(FormatError::Unknown));
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened_with_the_same_names_only(
        secret in any::<[u8; KEY_BYTES]>(),
        key_id in "[ -~]{1,64}",
        other_id in "[ -~]{1,64}",
        wrapped in proptest::collection::vec(any::<u8>(), 1..128),
        other in proptest::collection::vec(any::<u8>(), 1..128),
        seed in proptest::collection::vec(any::<u8>(), 1..512),
    ) {
        let key = Key::new(secret);
        let ciphertext = seal(&key, &key_id, &wrapped, &seed).unwrap();
        prop_assert!(ciphertext.len() <= 1024);
        let annotations = annotated(&annotation(&wrapped));
        prop_assert_eq!(form(&ciphertext, &annotations), Ok(Form::Local { wrapped: &wrapped }));
        prop_assert_eq!(&*open(&key, &key_id, &wrapped, &ciphertext).unwrap(), &seed);
        prop_assert_ne!(seal(&key, &key_id, &wrapped, &seed).unwrap(), ciphertext.clone());
        if other_id != key_id {
            prop_assert!(open(&key, &other_id, &wrapped, &ciphertext).is_err());
        }
        if other != wrapped {
            prop_assert!(open(&key, &key_id, &other, &ciphertext).is_err());
        }
    }

    #[test]
    fn no_bytes_make_it_panic(
        ciphertext in proptest::collection::vec(any::<u8>(), 0..128),
        annotation in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let _any = form(&ciphertext, &annotated(&annotation));
        prop_assert!(open(&key(), KEY_ID, &annotation, &[MAGIC, &ciphertext].concat()).is_err());
    }
}
