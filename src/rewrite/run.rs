//! A run over all resources.

use std::sync::{Mutex, PoisonError};

use super::checkpoint::Checkpoint;
use super::migrations::{self, NotMigrated};
use super::options::{Method, Options, Progress, Stop};
use super::pace::Pace;
use super::pass::{Outage, Pass};
use super::report::Tally;
use crate::cluster::{Connection, Migration, Resource};

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
