//! Transit in HashiCorp Vault or OpenBao, as a `KeyService`.
//!
//! Must not know gRPC, Kubernetes, or the caller. `client` sends HTTP requests to one of several addresses, `attempts`
//! says which one is tried when, and `classification` what an answer means. `session` keeps the token: it logs in and renews. `login` has one file
//! for each login method. `transit` wraps and unwraps. `inspector` gives `kms-plugin check` access to single steps.

mod address;
mod answer;
mod attempts;
mod budget;
mod certificate;
mod changes;
#[cfg(test)]
mod changes_tests;
mod classification;
mod client;
mod cluster;
#[cfg(test)]
mod corpus_tests;
mod explanation;
mod forward;
mod handshake;
mod inspector;
mod key;
mod login;
mod metadata;
mod namespace;
mod pem;
mod pem_blocks;
mod replication;
mod session;
mod svid;
mod tls;
mod tls_fault;
mod token;
mod transit;
mod transit_call;
mod transport;
mod verifier;

#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/vault.rs"]
pub(crate) mod fuzz;

pub(crate) use budget::Budget;
pub(crate) use certificate::CertificateFacts;
pub(crate) use cluster::SysHealth;
pub(crate) use handshake::Handshake;
pub(crate) use inspector::{Inspector, Target};
pub(crate) use namespace::warning as namespace_warning;
pub(crate) use pem::{TlsError, TlsFile, check_file as check_tls_file};
pub(crate) use tls::client_config;
pub(crate) use tls_fault::TlsFault;
pub(crate) use token::Lookup;
pub(crate) use transit::TransitService;
pub(crate) use transport::{Http, Transport};
#[cfg(any(test, fuzzing))]
pub(crate) use {
    address::Address,
    transport::{Request, Response},
};
