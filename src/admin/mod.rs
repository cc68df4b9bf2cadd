//! The admin API: /healthz, /livez, /readyz, /metrics, /status, and on the private socket /accept-key, /reload,
//! /refused, /accepted and /local-keks.
//!
//! Renders the snapshot. Only /healthz has the key service looked at before that. Must not know KMS.

pub(crate) mod api_types;
pub(crate) mod client;
mod healthz;
mod host;
mod metrics;
mod routes;
mod server;
mod status;
#[cfg(test)]
mod test_snapshot;
pub(crate) mod timing;

#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/admin.rs"]
pub(crate) mod fuzz;

pub(crate) use client::{Client, ClientError, ProbeEndpoint};
pub(crate) use host::HostNames;
pub(crate) use routes::{
    AdminCommands, CommandRequest, CommandResult, Liveness, LocalKekFingerprints, Snapshots,
};
pub(crate) use routes::{public_router, router};
pub(crate) use server::{serve_tcp, serve_unix};
