//! The engine of `verify-etcd`.

pub(crate) mod known;
pub(crate) mod offline;
pub(crate) mod result;
pub(crate) mod source;
