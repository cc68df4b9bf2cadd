//! The health of the key services. For each there is a pure machine that judges it, and a driver that looks at it when
//! the machine says so. The agent's phase follows from the verdicts and from the identity of the key. The publisher
//! publishes each new state as an immutable [`Snapshot`].
//!
//! Must not know gRPC, HTTP, or who reads the snapshot.

mod driver;
mod event;
pub(crate) mod identity;
mod line;
mod machine;
mod phase;
mod phase_log;
mod plan;
mod publisher;
mod reasons;
mod refresh;
mod refresher;
mod snapshot;
mod timing;
mod verdict;

pub(crate) use driver::Driver;
pub(crate) use event::{Event, Rules};
pub(crate) use identity::IdentityFile;
pub(crate) use phase::State;
pub(crate) use publisher::{DecryptOnly, Message, Output, Publish, Publisher, ServiceId, render};
pub(crate) use refresh::{Refresh, RefreshOutcome, RefreshReceivers};
pub(crate) use refresher::run as run_refresher;
pub(crate) use snapshot::{Announce, ConfigState, Phase, Reason, ReasonKind, ServiceState, Snapshot};
pub(crate) use verdict::{Hint, Verdict};
