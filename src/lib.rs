//! A Kubernetes KMS v2 plugin as a node agent.
//!
//! The folders are floors, and imports go down only: `clock`, `secret`, `telemetry`, `config`, `retry`
//! → `backend`, `snapshot` → `vault`, `embedded`, `local_kek` → `kms`, `health` → `supervisor` → `cli`. `systemd`,
//! `memory` and `socket` stand on the ground too, `etcd` above `local_kek`, whose format it reads. The binary is a few lines; the library holds everything, so that
//! the tests under `tests/` reach it.

pub mod backend;
pub mod cli;
pub mod clock;
pub mod config;
pub mod embedded;
pub mod etcd;
pub mod health;
pub mod kms;
pub mod local_kek;
pub mod memory;
pub mod process;
pub mod retry;
pub mod secret;
pub mod snapshot;
pub mod socket;
pub mod supervisor;
pub mod systemd;
pub mod telemetry;
pub mod vault;

/// The KMS v2 messages, client and server, generated from `proto/kms/v2/api.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)] // generated code
pub mod proto {
    tonic::include_proto!("v2");
}
