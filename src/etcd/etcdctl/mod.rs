//! The output of `etcdctl get` as a stream of objects.
//!
//! Must not know where the stream comes from.

pub(crate) mod form;
pub(crate) mod reader;
mod split;
