//! The KMS v2 service: limits, key_ids, deadlines, and gRPC codes.
//!
//! Knows backends and the snapshot; must not know Vault, HTTP, or who keeps the snapshot true.

pub mod connection;
mod decrypt;
pub mod key_id;
mod limits;
mod local;
pub mod refresh;
pub mod routes;
mod service;
mod status;

pub use connection::{Connection, Incoming, KmsStream};
pub use local::{Ahead, unwrap_ahead};
pub use refresh::{Refresh, RefreshRequests};
pub use routes::{Link, Routes, View};
pub use service::{KmsService, MAX_MESSAGE};
