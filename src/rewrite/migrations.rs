//! Leaves a resource to kube-controller-manager, where the API server serves StorageVersionMigration.

use std::time::Duration;

use tokio::time::Instant;

use super::run::{Options, Progress};
use crate::cluster::{Connection, Migration, MigrationState, Resource};

/// How long the controller may take to begin.
const BEGIN: Duration = Duration::from_secs(60);
/// Time between two looks.
const LOOK: Duration = Duration::from_secs(2);

/// Who writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Method {
    /// A StorageVersionMigration where one is served, else an empty patch for each object.
    #[default]
    Auto,
    /// An empty patch for each object.
    Patch,
}

/// Makes a migration and waits for its end.
///
/// # Errors
/// Why this resource must be written in the other way.
pub(super) async fn migrate(
    connection: &Connection,
    migration: &Migration,
    resource: &Resource,
    options: &Options,
    progress: &dyn Progress,
) -> Result<(), String> {
    let name = migration.begin(connection, resource).await.map_err(|error| error.to_string())?;
    let ended = watch(connection, migration, &name, options, progress).await;
    // It has done its work, or never will: one that stays would only be in the way of the next.
    let _removed = migration.remove(connection, &name).await;
    ended
}

async fn watch(
    connection: &Connection,
    migration: &Migration,
    name: &str,
    options: &Options,
    progress: &dyn Progress,
) -> Result<(), String> {
    let (started, mut answered) = (Instant::now(), Instant::now());
    loop {
        match migration.state(connection, name).await {
            Ok(MigrationState::Succeeded) => return Ok(()),
            Ok(MigrationState::Failed(why)) => return Err(why),
            Ok(MigrationState::Waiting) if started.elapsed() > BEGIN => {
                return Err("kube-controller-manager did not begin the migration".into());
            }
            Ok(state) => {
                answered = Instant::now();
                if let MigrationState::Running(how) = state {
                    progress.note(&format!("StorageVersionMigration {name}: {how}"));
                }
            }
            Err(error) if answered.elapsed() > options.patience || error.code() == Some(404) => {
                return Err(error.to_string());
            }
            Err(_) => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}
