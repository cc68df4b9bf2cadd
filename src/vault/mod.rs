//! Transit in HashiCorp Vault or OpenBao, as a `KeyService`.
//!
//! Must not know gRPC, Kubernetes, or who asks. `client` talks HTTP to one of several addresses,
//! `session` keeps a token, `login` says how each method logs in, `transit` wraps and unwraps;
//! `inspector` shows an operator's check what the others keep to themselves.

mod address;
mod certificate;
mod client;
mod cluster;
mod error;
mod handshake;
mod inspector;
mod key;
mod login;
mod metadata;
mod renewer;
mod session;
mod tls;
mod token;
mod transit;
mod transport;

pub(crate) use certificate::CertificateFacts;
pub(crate) use cluster::SysHealth;
pub(crate) use handshake::Handshake;
pub(crate) use inspector::{Inspector, Target};
pub(crate) use session::Lookup;
pub(crate) use tls::{TlsError, client_config};
pub(crate) use transit::TransitService;
