//! What the agent knows of its key services: observers look at them, a pure state machine turns what they saw into a
//! phase, and the publisher shows it as one immutable [`Snapshot`].
//!
//! Must not know gRPC, HTTP, or who reads the snapshot.

pub(crate) mod identity;
mod observer;
mod phase;
mod publisher;
mod reasons;
mod refresh;
mod refresher;
mod snapshot;

pub(crate) use identity::IdentityFile;
pub(crate) use observer::Observer;
pub(crate) use phase::{Event, Rules, State};
pub(crate) use publisher::{DecryptOnly, Message, Output, Publisher, ServiceId, render};
pub(crate) use refresh::{Refresh, RefreshOutcome, RefreshRequests};
pub(crate) use refresher::run as run_refresher;
pub(crate) use snapshot::{Announce, Phase, Reason, ReasonKind, ServiceState, Snapshot};
