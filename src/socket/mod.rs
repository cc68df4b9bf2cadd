//! The life of a unix socket: bind it or take it over from systemd, accept, and bind it again when it is lost.
//!
//! Must not know what is served on it.

mod acceptor;
mod bound;
mod error;
mod heartbeat;

pub use acceptor::{Acceptor, AcceptorEnded};
pub use bound::BoundSocket;
pub use error::SocketError;
pub use heartbeat::{Heartbeat, Stalled};
