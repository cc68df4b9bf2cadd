//! A Kubernetes KMS v2 plugin as a node agent.
//!
//! Each top-level module is a room, and the rooms stand on floors. Imports go down only, and there is no circle
//! between rooms: `tests/floors.rs` checks both.
//!
//! | Floor | Rooms |
//! |---|---|
//! | ground | clock, display, files, process, proto, retry, secret, systemd, telemetry |
//! | 1 | config |
//! | 2 | key_service, socket |
//! | 3 | vault, embedded, local_kek, kubernetes |
//! | 4 | etcd |
//! | 5 | health |
//! | 6 | kms, admin |
//! | 7 | agent |
//! | 8 | diagnose, compat, manifests |
//! | 9 | cli |
//! | top | main, tools |
//!
//! The library holds everything, so that the tests under `tests/` reach it. The two executables are a few lines
//! each: `main.rs` is the daemon, `tools.rs` has the commands for administrators.

pub mod admin;
pub mod agent;
pub mod cli;
pub mod clock;
pub mod compat;
pub mod config;
pub mod diagnose;
pub mod display;
pub mod embedded;
pub mod etcd;
pub mod files;
pub mod health;
pub mod key_service;
pub mod kms;
pub mod kubernetes;
pub mod local_kek;
pub mod manifests;
pub mod process;
pub mod retry;
pub mod secret;
pub mod socket;
pub mod systemd;
pub mod telemetry;
pub mod vault;

/// The KMS v2 messages, client and server, generated from `proto/kms/v2/api.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)] // generated code
pub mod proto {
    tonic::include_proto!("v2");
}
