//! The admin API: /healthz, /livez, /readyz, /metrics, /status, and on the private socket /accept-key,
//! /reload, /refused and /kept-keys.
//!
//! Renders the snapshot, and which keys are kept: a probe costs the key service no call. Must not know KMS.

mod metrics;
mod render;
mod routes;
mod server;

pub use routes::{AdminRequest, Alive, KeptKeys, Snapshots, Wishes, public_router, router};
pub use server::{serve_tcp, serve_unix};
