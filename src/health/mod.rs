//! The admin API: /healthz, /livez, /readyz, /metrics, /status, and on the private socket /accept-key,
//! /reload and /refused.
//!
//! Renders the snapshot and nothing else: a probe costs the key service no call. Must not know KMS.

mod metrics;
mod render;
mod routes;
mod server;

pub use routes::{AdminRequest, Alive, Snapshots, Wishes, public_router, router};
pub use server::{serve_tcp, serve_unix};
