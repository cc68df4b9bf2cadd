//! The KMS v2 service: its server and its client, limits, deadlines, and gRPC codes.
//!
//! Knows key services and the snapshot; must not know Vault, HTTP, or who keeps the snapshot true.

pub(crate) mod client;
mod connection;
mod decrypt;
mod limits;
mod local_kek;
mod routing;
mod server;
mod service;
mod status;

pub(crate) use connection::Incoming;
pub(crate) use routing::{Link, Route, Routes, View};
pub(crate) use server::serve;
pub(crate) use service::{KmsService, MAX_MESSAGE};
