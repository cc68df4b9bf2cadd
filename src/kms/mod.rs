//! The KMS v2 service: its server and its client, limits, deadlines, and gRPC codes.
//!
//! Knows key services and the snapshot; must not know Vault, HTTP, or who keeps the snapshot true.

pub mod client;
mod connection;
mod decrypt;
mod limits;
mod local_kek;
mod routing;
mod server;
mod service;
mod status;

pub use connection::Incoming;
pub use routing::{Link, Route, Routes, View};
pub use server::serve;
pub use service::{KmsService, MAX_MESSAGE};
