//! What the agent knows of its key services: observers look at them, a pure state machine turns what they saw into a
//! phase, and the publisher shows it as one immutable [`Snapshot`].
//!
//! Must not know gRPC, HTTP, or who reads the snapshot.

pub mod identity;
mod observer;
mod phase;
mod publisher;
mod reasons;
mod refresh;
mod refresher;
mod snapshot;

pub use identity::IdentityFile;
pub use observer::Observer;
pub use phase::{Event, Rules, State};
pub use publisher::{DecryptOnly, Message, Output, Publisher, ServiceId, render};
pub use refresh::{Refresh, RefreshOutcome, RefreshRequests};
pub use refresher::run as run_refresher;
pub use snapshot::{Announce, Phase, Reason, ReasonKind, ServiceState, Snapshot};
