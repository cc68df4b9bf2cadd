//! A unix socket: bind it or take it over from systemd, accept connections, and bind it again when it was deleted.
//!
//! Must not know the protocol on it.

mod acceptor;
mod bound;
mod directory_watch;
mod error;
mod heartbeat;
mod rebind;

pub(crate) use acceptor::{Acceptor, AcceptorEnded};
pub(crate) use bound::{BoundSocket, occupant};
pub(crate) use directory_watch::DirectoryWatch;
pub(crate) use error::SocketError;
pub(crate) use heartbeat::{Heartbeat, Stalled};
