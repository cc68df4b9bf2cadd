//! The life of a unix socket: bind it or take it over from systemd, accept, and bind it again when it is lost.
//!
//! Must not know what is served on it.

mod acceptor;
mod bound;
mod error;
mod heartbeat;

pub(crate) use acceptor::{Acceptor, AcceptorEnded};
pub(crate) use bound::BoundSocket;
pub(crate) use error::SocketError;
pub(crate) use heartbeat::{Heartbeat, Stalled};
