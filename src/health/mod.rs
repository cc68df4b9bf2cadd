//! The health of the key services. Observers check them. A pure state machine derives the phase of the agent from the
//! results. The publisher publishes each new state as an immutable [`Snapshot`].
//!
//! Must not know gRPC, HTTP, or who reads the snapshot.

mod checks;
mod event;
pub(crate) mod identity;
mod line;
mod observer;
mod phase;
mod phase_log;
mod publisher;
mod reasons;
mod refresh;
mod refresher;
mod snapshot;
mod timing;

pub(crate) use event::{Event, Rules};
pub(crate) use identity::IdentityFile;
pub(crate) use observer::Observer;
pub(crate) use phase::State;
pub(crate) use publisher::{DecryptOnly, Message, Output, Publish, Publisher, ServiceId, render};
pub(crate) use refresh::{Refresh, RefreshOutcome, RefreshRequests};
pub(crate) use refresher::run as run_refresher;
pub(crate) use snapshot::{Announce, ConfigState, Phase, Reason, ReasonKind, ServiceState, Snapshot};
