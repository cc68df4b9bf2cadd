//! How a run is done, whom it tells how far it is, and why it ends before its end.

use std::io;
use std::time::Duration;

use crate::cluster::CallError;

/// Who writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Method {
    /// A StorageVersionMigration where one is served, else an empty patch for each object.
    #[default]
    Auto,
    /// An empty patch for each object.
    Patch,
}

/// How a run is done.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Only counts.
    pub dry_run: bool,
    pub method: Method,
    /// Most writes at the same time.
    pub parallel: usize,
    /// Objects in a page.
    pub page: usize,
    /// How long API servers may be away, and failed writes are tried again.
    pub patience: Duration,
}

/// Shows how far a run is.
pub(crate) trait Progress: Send + Sync {
    /// A resource begins.
    fn begin(&self, resource: &str);
    /// So many more objects will come.
    fn expect(&self, objects: u64);
    /// So many objects are done.
    fn advance(&self, objects: u64);
    /// Something to know meanwhile. The same text may come often.
    fn note(&self, text: &str);
}

/// Why a run ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    #[error("no API server answers: {0}")]
    Away(String),
    #[error("the state file cannot be written: {0} (--state names another one, --no-state none)")]
    Checkpoint(io::Error),
    #[error(transparent)]
    Migration(CallError),
}
