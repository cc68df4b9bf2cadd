//! Leaves a resource to kube-controller-manager, where the API server serves StorageVersionMigration.
//!
//! Whether the controller still works is seen in the objects. Its status says nothing until its end, and it tries an
//! object that fails with an internal error (an admission webhook that does not answer, a value that cannot be
//! decrypted) again without end.

use std::time::Duration;

use tokio::time::Instant;

use super::options::{Options, Progress};
use crate::cluster::{CallError, Connection, Migration, MigrationState, Object, Resource, Written};

/// How long the controller may take to begin.
const BEGIN: Duration = Duration::from_secs(60);
/// Time between two looks at the status.
const LOOK: Duration = Duration::from_secs(2);
/// Time between two counts of the objects that are left. In a large cluster it is longer: `COUNT_SHARE` times as long as a
/// count takes.
const COUNT: Duration = Duration::from_secs(30);
const COUNT_SHARE: u32 = 10;
/// Most objects of which one is written from here.
const FIRST: usize = 20;

/// The migration of one resource.
pub(super) struct Job<'a> {
    pub connection: &'a Connection,
    pub migration: &'a Migration,
    pub resource: &'a Resource,
    /// Objects with a higher revision are done.
    pub begin: u64,
    pub options: &'a Options,
    pub progress: &'a dyn Progress,
}

/// Why the objects must be written in the other way.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotMigrated {
    /// So it will be with each resource.
    #[error("kube-controller-manager did not begin it within {BEGIN:?}")]
    NotBegun,
    #[error("{0}")]
    Failed(String),
}

impl From<CallError> for NotMigrated {
    fn from(error: CallError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What was not written since the begin.
struct Left {
    objects: u64,
    /// The first of them.
    first: Vec<Object>,
}

impl Job<'_> {
    /// Makes a migration and waits for its end. False: nothing was left to write, and none was made.
    ///
    /// # Errors
    /// Why this resource must be written in the other way.
    pub(super) async fn run(&self) -> Result<bool, NotMigrated> {
        let left = self.left().await?;
        if left.objects == 0 {
            return Ok(false);
        }
        let name = self.migration.begin(self.connection, self.resource).await?;
        let ended = self.watch(&name, left).await;
        // It has done its work, or never will: one that stays would only be in the way of the next.
        let _removed = self.migration.remove(self.connection, &name).await;
        ended.map(|()| true)
    }

    async fn watch(&self, name: &str, mut left: Left) -> Result<(), NotMigrated> {
        let started = Instant::now();
        let (mut answered, mut moved, mut next_count) = (started, started, started + COUNT);
        let patience = self.options.patience;
        loop {
            match self.migration.state(self.connection, name).await {
                Ok(MigrationState::Succeeded) => return Ok(()),
                Ok(MigrationState::Failed(why)) => return Err(NotMigrated::Failed(why)),
                Ok(MigrationState::Waiting) if started.elapsed() > BEGIN => {
                    return Err(NotMigrated::NotBegun);
                }
                Ok(MigrationState::Waiting) => answered = Instant::now(),
                Ok(MigrationState::Running { message, revision }) => {
                    answered = Instant::now();
                    if revision.is_some() {
                        self.show_a_write(&mut left.first).await;
                    }
                    if answered >= next_count || moved.elapsed() > patience {
                        if let Ok(now) = self.left().await
                            && now.objects < left.objects
                        {
                            (left.objects, moved) = (now.objects, Instant::now());
                        }
                        next_count = Instant::now() + COUNT.max(answered.elapsed() * COUNT_SHARE);
                    }
                    let objects = left.objects;
                    if moved.elapsed() > patience {
                        let why = format!("no object was written for {patience:?}: {message}");
                        return Err(NotMigrated::Failed(why));
                    }
                    self.progress.note(&format!(
                        "StorageVersionMigration {name}: {message}; {objects} objects were left"
                    ));
                }
                Err(error) if answered.elapsed() > patience || error.code() == Some(404) => {
                    return Err(error.into());
                }
                Err(_) => {}
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Writes one object, once. The controller waits until its cache has seen the revision at which the migration began,
    /// and a cache that nobody writes to sees none for a minute, or for ten where etcd does not report its progress often.
    async fn show_a_write(&self, first: &mut Vec<Object>) {
        while let Some(object) = first.pop() {
            if matches!(self.connection.write_unchanged(self.resource, &object).await, Ok(Written::Anew)) {
                first.clear();
            }
        }
    }

    async fn left(&self) -> Result<Left, CallError> {
        let mut left = Left { objects: 0, first: Vec::new() };
        let mut next: Option<String> = None;
        loop {
            let page = match self.connection.page(self.resource, self.options.page, next.as_deref()).await {
                Ok(page) => page,
                // The token is too old: it goes on at its place, with what is there now.
                Err(CallError::Refused(refusal)) if refusal.code == 410 && refusal.next.is_some() => {
                    next = refusal.next;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let old = |object: &Object| object.revision().is_none_or(|revision| revision <= self.begin);
            for object in page.objects.into_iter().filter(old) {
                left.objects += 1;
                if left.first.len() < FIRST {
                    left.first.push(object);
                }
            }
            match page.next {
                Some(token) => next = Some(token),
                None => return Ok(left),
            }
        }
    }
}
