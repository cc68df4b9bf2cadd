//! Transit in HashiCorp Vault or OpenBao, as a `Backend`.
//!
//! Must not know gRPC, Kubernetes, or who asks. `client` talks HTTP to one of several addresses,
//! `session` keeps a token, `login` says how each method logs in, `transit` wraps and unwraps.

mod address;
mod client;
mod cluster;
mod error;
mod exchange;
mod key;
mod login;
mod notes;
mod session;
mod tls;
mod token;
mod transit;
mod upkeep;

pub use tls::{TlsError, client_config};
pub use transit::TransitBackend;
