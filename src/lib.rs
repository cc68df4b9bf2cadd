//! A Kubernetes KMS v2 plugin as a node agent.
//!
//! Each top-level module is a room, and the rooms stand on floors. Imports go down only, and there is no cycle
//! between rooms: `tests/floors.rs` checks both.
//!
//! | Floor | Rooms |
//! |---|---|
//! | ground | clock, display, files, fips, http, process, proto, retry, secret, systemd, telemetry, untrusted |
//! | 1 | config |
//! | 2 | key_service, socket, spiffe |
//! | 3 | vault, embedded, local_kek, kubernetes |
//! | 4 | etcd, cluster |
//! | 5 | health |
//! | 6 | kms, admin |
//! | 7 | agent |
//! | 8 | diagnose, compat, manifests, rewrite |
//! | 9 | cli |
//! | top | main, tools |
//!
//! The library holds everything, so that the tests under `tests/` reach it. The two executables are a few lines
//! each: `main.rs` is the daemon, `tools.rs` has the commands for administrators.

mod admin;
mod agent;
pub mod cli;
mod clock;
mod cluster;
mod compat;
mod config;
mod diagnose;
mod display;
mod embedded;
mod etcd;
mod files;
mod fips;
mod health;
mod http;
mod key_service;
mod kms;
mod kubernetes;
mod local_kek;
mod manifests;
mod process;
mod retry;
mod rewrite;
mod secret;
mod socket;
mod spiffe;
mod systemd;
mod telemetry;
mod untrusted;
mod vault;

#[cfg(fuzzing)]
pub use cli::fuzz;
// What the integration tests compare with: the table of configuration keys, and the format of ciphertexts.
pub use config::schema;
pub use local_kek::format;

/// The KMS v2 messages, client and server, generated from `proto/kms/v2/api.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)] // generated code
pub mod proto {
    tonic::include_proto!("v2");
}
