//! What etcd holds, and what etcdctl and etcd's gateway print.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a target that finds something panics

use std::io::{Cursor, Read};

use super::etcdctl::reader;
use super::key::{DEFAULT_ROOT, ObjectKey};
use super::range_response::{self, Gauge, Metered};
use super::value::{Stored, WrappedSeed};
use super::{MAX_VALUE, Sink};

/// A stored value: what `verify-etcd` says of it, and the seed that it would ask the plugin for.
pub(crate) fn value(input: &[u8]) {
    let seed = WrappedSeed::of(input);
    if let Stored::KmsV2 { provider, key_id, .. } = Stored::parse(input) {
        let seed = seed.expect("a value under KMS v2 has a seed");
        assert_eq!(seed.key_id, key_id);
        assert!(!seed.ciphertext.is_empty());
        assert!(!provider.is_empty() && provider.len() <= 253 && !provider.contains(':'));
    }
}

/// A key: its resource and object.
pub(crate) fn key(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for root in [DEFAULT_ROOT, "/kubernetes.io", ""] {
        let object = ObjectKey::parse(text, root);
        assert!(text.ends_with(object.name), "{text:?}: {:?}", object.name);
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Objects(Vec<(Option<Vec<u8>>, Vec<u8>)>);

impl Sink for Objects {
    fn object(&mut self, key: Option<&[u8]>, value: &[u8]) {
        assert!(value.len() <= MAX_VALUE);
        self.0.push((key.map(<[u8]>::to_vec), value.to_vec()));
    }
}

/// The gateway's answer to a range request.
pub(crate) fn range(input: &[u8]) {
    let gauge = Gauge::default();
    let mut objects = Objects::default();
    let metered = Metered { input: Cursor::new(input), gauge: &gauge };
    let mut json = serde_json::Deserializer::from_reader(metered);
    if let Ok(range) = range_response::read(&mut json, &gauge, &mut objects) {
        assert_eq!(range.objects, objects.0.len() as u64);
    }
}

/// Gives one byte at a time.
struct Slow<'a>(&'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let end = buffer.len().min(1);
        (&mut self.0).take(1).read(&mut buffer[..end])
    }
}

/// What etcdctl prints, in any form. How it arrives must not matter.
pub(crate) fn etcdctl_stream(input: &[u8]) {
    let (mut whole, mut slow) = (Objects::default(), Objects::default());
    let of_whole = reader::read(input, &mut whole).map_err(|error| error.to_string());
    let of_slow = reader::read(Slow(input), &mut slow).map_err(|error| error.to_string());
    assert_eq!(of_whole, of_slow);
    assert_eq!(whole, slow);
}
