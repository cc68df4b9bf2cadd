//! Clusters of three servers with raft storage, OpenBao or HashiCorp Vault, each server in a network of its own: what a
//! node's agent sees when members end, are cut off, removed, restarted and upgraded, through the members' addresses and
//! through a load balancer.
//!
//! `tests/clusters/run` gets what these tests need, makes them a network of their own, and runs them. `cargo test` does
//! not.

#![allow(clippy::restriction)] // a test that fails panics
#![allow(unreachable_pub)] // nobody uses a test program as a library

mod balancer;
mod balancing;
mod cluster;
mod leader;
mod members;
mod network;
mod partition;
mod rolling;
mod rotation;
#[path = "../integration/support/mod.rs"]
#[allow(dead_code)] // the other tests' support code, of which a part is used
mod support;
mod token_file;
mod users;
mod watch;
