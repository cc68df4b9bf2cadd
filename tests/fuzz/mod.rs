//! The fuzz targets: bytes that somebody else wrote, through the code that reads them. A target panics when something
//! is wrong. Each stands in a file named by its room, and is compiled as a module of that room.
//!
//! `fuzz/` runs them with libFuzzer, and a test here replays their corpora.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a target that finds something panics

#[cfg(test)]
mod replay;

use crate::{agent, compat, config, diagnose, etcd, kubernetes, local_kek, vault};

/// A target: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets. Each has `fuzz/fuzz_targets/NAME.rs` and `fuzz/corpus/NAME/`.
pub const TARGETS: [Target; 13] = [
    ("admin_request", agent::fuzz::admin_request),
    ("command_line", compat::fuzz::command_line),
    ("config_file", config::fuzz::file),
    ("encryption_configuration", kubernetes::fuzz::encryption_configuration),
    ("etcd_key", etcd::fuzz::key),
    ("etcd_range", etcd::fuzz::range),
    ("etcd_value", etcd::fuzz::value),
    ("etcdctl_stream", etcd::fuzz::etcdctl_stream),
    ("grpc_call", agent::fuzz::grpc_call),
    ("local_kek_record", local_kek::fuzz::record),
    ("redaction", diagnose::bundle::fuzz::redaction),
    ("vault_answer", vault::fuzz::answer),
    ("wrapped_seed", local_kek::fuzz::wrapped_seed),
];

/// Runs one target with one input.
///
/// # Panics
/// When there is no such target, and when the target finds a fault.
pub fn run(target: &str, input: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    found.unwrap_or_else(|| panic!("there is no target {target}")).1(input);
}
