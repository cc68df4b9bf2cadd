//! The SPIFFE Workload API: what gives this process its identity, as an X.509 certificate or as a JWT. SPIRE's agent
//! serves it on a unix socket, and knows the caller by its user id and by the systemd unit or the pod that it runs in.
//!
//! Must not know what an identity is used for. The messages are written out in `proto/spiffe/workload.proto`: the crate
//! `spiffe` would bring eight crates more into the process that holds keys, for two calls.

mod der;
mod error;
mod workload_api;

pub(crate) use error::SpiffeError;
pub(crate) use workload_api::{WorkloadApi, X509Svid};

/// The generated messages and client.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)] // generated code
mod messages {
    tonic::include_proto!("_");
}
