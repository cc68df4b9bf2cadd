//! A run over all resources.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::checkpoint::Checkpoint;
use super::migrations::{self, Method, NotMigrated};
use super::pace::Pace;
use super::pass::{Outage, Pass};
use super::report::Tally;
use crate::cluster::{CallError, Connection, Migration, Resource};

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

/// Goes through the resources in their order. What became of them is in `tallies`, also when the run is dropped.
pub(crate) async fn run(
    connection: &Connection,
    resources: &[Resource],
    options: &Options,
    pace: &Pace,
    checkpoint: &mut Checkpoint,
    progress: &dyn Progress,
    tallies: &Mutex<Vec<(String, Tally)>>,
) -> Result<(), Stop> {
    let mut migration = match options.method {
        Method::Auto if !options.dry_run => Migration::served(connection).await.map_err(Stop::Migration)?,
        _ => None,
    };
    let outage = Outage::default();
    for resource in resources {
        let name = resource.name();
        progress.begin(&name);
        let tally = Shared { tally: Mutex::default(), name, into: tallies };
        if let Some(served) = migration.as_ref().filter(|_| !resource.aggregated)
            // What it writes has a higher revision than this. The pass after it then only looks for what it left.
            && let Ok(page) = connection.page(resource, 1, None).await
            && let Some(revision) = page.revision
        {
            let begin = checkpoint.begin(&tally.name, revision).map_err(Stop::Checkpoint)?;
            let job = migrations::Job { connection, migration: served, resource, begin, options, progress };
            match job.run().await {
                Ok(true) => tally.set_by_migration(),
                Ok(false) => {}
                Err(why) => {
                    progress.note(&format!(
                        "the StorageVersionMigration of {} ended without success ({why}): each object is written from here",
                        tally.name
                    ));
                    if matches!(why, NotMigrated::NotBegun) {
                        migration = None;
                    }
                }
            }
        }
        let pass = Pass {
            connection,
            resource,
            options,
            pace,
            outage: &outage,
            failing: Outage::default(),
            progress,
            tally: &tally.tally,
        };
        pass.run(checkpoint).await?;
    }
    Ok(())
}

/// The counts of one resource. When the run ends here, for whatever reason, they are kept.
struct Shared<'a> {
    tally: Mutex<Tally>,
    name: String,
    into: &'a Mutex<Vec<(String, Tally)>>,
}

impl Shared<'_> {
    fn set_by_migration(&self) {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).by_migration = true;
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        let tally = std::mem::take(&mut *self.tally.lock().unwrap_or_else(PoisonError::into_inner));
        let mut into = self.into.lock().unwrap_or_else(PoisonError::into_inner);
        into.push((std::mem::take(&mut self.name), tally));
    }
}
