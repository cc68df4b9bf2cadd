//! The record of a cached key in the memory that systemd holds, and the forms in etcd.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a target that finds something panics

use std::collections::HashMap;

use super::format::{ANNOTATION, Form, KEY_BYTES, Key, annotation, form, open, seal};
use super::record::{RECORD, Record, checksum};

/// One slot of the memory. The checksum is made right, so that the fields behind it are reached.
pub(crate) fn record(input: &[u8]) {
    let _damaged = Record::read(input);
    let mut slot = input.to_vec();
    slot.resize(RECORD, 0);
    if let Some(sum) = checksum(&slot, 8..16, RECORD - 8) {
        slot[RECORD - 8..].copy_from_slice(&sum);
    }
    let Some(record) = Record::read(&slot) else { return };
    let mut written = vec![0; RECORD];
    if record.write(&mut written) {
        let again = Record::read(&written).expect("what was written can be read");
        assert_eq!((again.kind, &again.fingerprint), (record.kind, &record.fingerprint));
        assert_eq!((again.made, again.uses, &again.wrapped), (record.made, record.uses, &record.wrapped));
        assert_eq!(*again.secret, *record.secret);
    }
}

/// A ciphertext with its annotation and key_id. Nothing that somebody else wrote may be opened; what `seal` made is
/// opened, and not with another byte anywhere.
pub(crate) fn wrapped_seed(input: &[u8]) {
    let key = Key::new([7; KEY_BYTES]);
    let Some((&[kind, at, flip], rest)) = input.split_first_chunk() else { return };
    let (first, second) = rest.split_at(rest.len() / 2);
    let annotated: HashMap<String, Vec<u8>> = match kind % 3 {
        0 => HashMap::new(),
        1 => HashMap::from([(ANNOTATION.to_owned(), second.to_vec())]),
        _ => HashMap::from([(ANNOTATION.to_owned(), annotation(second))]),
    };
    let key_id = String::from_utf8_lossy(second);
    if let Ok(Form::Local { wrapped }) = form(first, &annotated) {
        assert!(!wrapped.is_empty());
        assert!(open(&key, &key_id, wrapped, first).is_err());
    }
    let sealed = seal(&key, &key_id, second, first).expect("AES-GCM works");
    assert_eq!(open(&key, &key_id, second, &sealed).expect("the same parts").as_slice(), first);
    let mut changed = sealed;
    let at = usize::from(at) % changed.len();
    changed[at] ^= flip;
    assert_eq!(open(&key, &key_id, second, &changed).is_ok(), flip == 0);
}
