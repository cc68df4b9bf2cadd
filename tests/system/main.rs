//! The packages and the units in a real systemd: a container whose PID 1 it is, with a real OpenBao beside it.
//!
//! `tests/system/run` prepares what these tests need (root, root file systems, packages) and runs them, once for
//! each generation of systemd. `cargo test` does not.

#![allow(clippy::restriction)] // a test that fails panics
#![allow(unreachable_pub)] // nobody uses a test program as a library

mod ansible;
mod deb;
mod doctor;
mod faults;
mod fips;
mod image;
mod install;
mod journal;
mod node;
mod offline;
mod readme;
mod rollout;
mod score;
mod secrets;
mod service;
mod socket;
#[path = "../integration/support/mod.rs"]
#[allow(dead_code)] // the other tests' support code, of which a part is used
mod support;
