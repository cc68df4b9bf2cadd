//! The promised times at the default intervals of the agent, on a real OpenBao or HashiCorp Vault: each fault ten times.
//! The other tests shorten the intervals; these wait. docs/reliability.md has the figures.
//!
//! `tests/deadlines/run` gets what these tests need, and runs them. `cargo test` does not.

#![allow(clippy::restriction)] // a test that fails panics
#![allow(unreachable_pub)] // nobody uses a test program as a library

mod audit;
mod figures;
mod lock_outs;
mod node;
mod outages;
mod refusals;
mod requests;
mod rotation;
mod starts;
#[path = "../integration/support/mod.rs"]
#[allow(dead_code)] // the other tests' support code, of which a part is used
mod support;
mod tenant;
mod throttled;
