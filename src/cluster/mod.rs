//! Speaks to the API servers of a cluster: pages of metadata, empty patches, metrics, storage migrations.
//!
//! Asks for the metadata of objects only, never for their values. Only the tools link this room, and with it the crate
//! `kube`. Must not know what a command does with the answers, print, or know exit codes.

mod answer;
mod connection;
mod discovery;
mod error;
mod identity;
mod metrics;
mod migration;
mod objects;
mod servers;

pub(crate) use connection::{Connection, Login};
pub(crate) use discovery::{Resource, resolve};
pub(crate) use error::{CallError, ConnectionError, Refusal};
pub(crate) use identity::cluster_id;
pub(crate) use metrics::Reported;
pub(crate) use migration::{Migration, MigrationState};
pub(crate) use objects::{Object, Page, Written};
pub(crate) use servers::addresses;
