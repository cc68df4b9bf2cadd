//! The engine of `verify-etcd`: reads the objects in etcd and reports what they are encrypted with.
//!
//! `verify` reads and counts, `source` says what is read, `known` and `offline` say what the agent of this node
//! knows, `result` is the report.

mod error;
mod known;
mod offline;
mod result;
mod source;
mod text;
mod verify;

pub(crate) use error::StorageError;
pub(crate) use result::Report;
pub(crate) use source::{Endpoints, Selection, Source};
pub(crate) use text::printable;
pub(crate) use verify::{AGENT_TIMEOUT, Options, Progress, verify};
