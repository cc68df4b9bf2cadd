//! The engine of `verify-etcd`.

pub mod known;
pub mod offline;
pub mod result;
pub mod source;
