//! The forms in which `etcdctl get` writes objects, and the errors of reading them.

use std::io;

use crate::etcd::MAX_VALUE;

/// How many bytes are enough to recognise the form.
pub(super) const HEAD: usize = 64;
/// How many bytes are read at once.
pub(super) const CHUNK: usize = 64 * 1024;

/// The form of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `etcdctl get -w json`.
    Json,
    /// `etcdctl get`: lines with a key, each followed by its value.
    Simple,
    /// `etcdctl get --print-value-only`.
    Values,
}

/// Why the stream cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the input is empty: did etcdctl fail, or is there no key with its prefix?")]
    Empty,
    /// The input does not begin like the output of `etcdctl get`.
    #[error(
        "this is not what etcdctl get writes (-w json, or simple); kubectl's output does not show how an object is stored"
    )]
    NoForm,
    #[error("the input has keys without their values: run etcdctl get without --keys-only")]
    KeysOnly,
    #[error("the input ends in the middle, after {objects} objects: did etcdctl fail?")]
    Truncated {
        /// The complete objects before the end.
        objects: u64,
    },
    /// The input has only some of the objects.
    #[error(
        "the input has {objects} of {count} objects, so the result would prove nothing: run etcdctl get without --limit"
    )]
    Partial {
        objects: u64,
        /// The objects in etcd.
        count: u64,
    },
    /// The input is not JSON as etcdctl writes it.
    #[error("the input is not what etcdctl get -w json writes: line {line}, column {column}")]
    Damaged {
        /// Counted from 1, like `column`.
        line: usize,
        column: usize,
    },
    #[error("{object} is larger than {} MiB; etcd's own limit is 1.5 MiB by default", MAX_VALUE / 1024 / 1024)]
    TooLarge {
        /// Its key, or its number in the stream.
        object: String,
    },
    #[error("the input cannot be read")]
    Io(#[source] io::Error),
}
