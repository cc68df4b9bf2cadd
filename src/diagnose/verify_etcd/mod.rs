//! The engine of `verify-etcd`: reads the objects in etcd and reports what they are encrypted with.
//!
//! `verify` reads and counts, `source` says what is read, `known` and `offline` say what the agent of this node
//! knows, `questions` answers what an administrator may do now, `seeds` lets the agent unwrap every seed, `result` is
//! the report.

mod error;
mod known;
mod offline;
mod questions;
mod result;
mod seeds;
mod source;
mod text;
mod verify;

pub(crate) use error::StorageError;
pub(crate) use questions::{Answer, Questions};
pub(crate) use result::Report;
pub(crate) use source::{Configuration, Endpoints, Selection, Source, peer};
pub(crate) use text::printable;
pub(crate) use verify::{AGENT_TIMEOUT, Options, Progress, verify};
