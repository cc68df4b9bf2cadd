//! The KMS v2 service: its server and its client, limits, deadlines, and gRPC codes.
//!
//! Knows key services and the snapshot of their state. Must not know Vault, HTTP, or who updates the snapshot.

pub(crate) mod client;
mod connection;
mod connection_limit;
mod deadline;
mod decrypt;
mod encrypt;
mod error_codes;
mod in_flight;
mod limits;
mod local_kek;
mod request_guard;
mod route;
mod server;
mod service;
mod transport;
mod unconfigured;
mod view;

#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/kms.rs"]
pub(crate) mod fuzz;

#[cfg(any(test, fuzzing))]
pub(crate) use connection::Connection;
pub(crate) use connection::Incoming;
pub(crate) use route::Route;
pub(crate) use server::serve;
pub(crate) use service::{KmsService, MAX_MESSAGE};
pub(crate) use unconfigured::serve_unconfigured;
pub(crate) use view::{KeyServices, View};
