//! The core: everything that depends on the configured key services. These are the token renewers, a driver for each
//! key service, the refresher, and the publisher of the state.
//!
//! A reload starts a new core beside the old one. The new one replaces the old one only when a round trip has worked.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};

use super::error::{AgentError, TaskError};
use super::timing::{FILES_TIMEOUT, PREPARE_TIMEOUT};
use super::{local_keks, services};
use crate::clock::{BootTime, Deadline};
use crate::config::Settings;
use crate::config::settings::Health;
use crate::health::{
    self, DecryptOnly, Driver, Event, IdentityFile, Message, Output, Publish, Publisher, Refresh,
    RefreshReceivers, Rules, ServiceId, ServiceState, Snapshot, State,
};
use crate::key_service::{KeyService, KeyVersion};
use crate::kms::{KeyServices, View};
use crate::local_kek::{Cache, KeyCheck};
use crate::telemetry::metrics::Metrics;
use crate::vault::Transport;
use crate::{files, fips};

/// Events that may wait for the publisher.
const MAX_EVENTS: usize = 64;
/// Requests to look that may wait for a driver of a key service that only unwraps: the refresher sends one at a time.
const MAX_LOOK_REQUESTS: usize = 4;

/// A task's name and how it ended.
pub(super) type Ended = (&'static str, Result<(), TaskError>);

/// A core that is not started: its files are read, and nothing was sent yet.
pub(super) struct PreparedCore {
    health: Health,
    state: State,
    /// The key version that an earlier run saved; 0 without one.
    saved_version: u32,
    epoch: u32,
    identity: IdentityFile,
    primary: Arc<dyn KeyService>,
    decrypt_only: Vec<DecryptOnly>,
    services: Arc<KeyServices>,
    receivers: RefreshReceivers,
    /// The digest of the settings.
    digest: Arc<str>,
}

/// A running core. Its tasks end when it is dropped.
pub(super) struct Core {
    pub tasks: JoinSet<Ended>,
    pub services: Arc<KeyServices>,
    /// The state with this configuration, also while the agent uses another one.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub messages: mpsc::Sender<Message>,
}

impl PreparedCore {
    /// Sets up the key services of `settings`, and loads what an earlier run or core has saved.
    ///
    /// `local_keks` outlives the core: a reload must not lose a key. `transport` sends the requests to Vault.
    pub(super) fn new(
        settings: &Settings,
        metrics: &Metrics,
        local_keks: Arc<Cache>,
        transport: &Arc<dyn Transport>,
    ) -> Result<Self, AgentError> {
        let (primary, decrypt_only) = services::build(settings, metrics, transport)?;
        let identity = IdentityFile::in_directory(&settings.server.runtime_dir);
        let rules = Rules {
            scope: primary.scope().clone(),
            epoch: settings.primary.key_id_epoch(),
            grace: settings.health.outage_grace,
            expect_created: settings.primary.expect_created(),
            fips: fips::BUILD,
        };
        let saved = identity.load(&rules.scope, rules.epoch);
        primary.expect_cluster(saved.as_ref().and_then(|(key, _)| key.cluster_id.clone()));
        let (refresh, receivers) = Refresh::channel();
        let services = KeyServices {
            primary: primary.clone(),
            decrypt_only: decrypt_only.iter().map(|other| other.key_service.clone()).collect(),
            accept_foreign_ciphertext: settings.primary.accept_foreign_ciphertext(),
            refresh,
            local_keks,
            local_kek_policy: settings.local_kek,
        };
        Ok(Self {
            health: settings.health,
            saved_version: saved.as_ref().map_or(0, |(key, _)| key.version),
            epoch: rules.epoch,
            state: State::new(rules, saved, BootTime::now()),
            identity,
            primary,
            decrypt_only,
            services: Arc::new(services),
            receivers,
            digest: settings.digest.as_str().into(),
        })
    }

    /// The same, in a thread that may wait for a file system, and within a time.
    ///
    /// # Errors
    /// Those of [`Self::new`], or `Files`.
    pub(super) async fn read(
        settings: &Settings,
        metrics: &Metrics,
        local_keks: Arc<Cache>,
        transport: &Arc<dyn Transport>,
    ) -> Result<Self, AgentError> {
        let (settings, metrics, transport) = (settings.clone(), metrics.clone(), transport.clone());
        let read = move || Ok(Self::new(&settings, &metrics, local_keks, &transport));
        files::in_time(FILES_TIMEOUT, read).await.map_err(AgentError::Files)?
    }

    /// What calls see before the first event.
    pub(super) fn view(&self) -> View {
        let cache = active_cache(&self.services);
        let mut snapshot = health::render(&self.state, &self.primary, &self.decrypt_only, cache.as_deref());
        snapshot.config.digest = self.digest.clone();
        View { snapshot: Arc::new(snapshot), services: self.services.clone() }
    }

    /// Starts the tasks. They update the snapshot in `views` while `views` has the key services of this core.
    pub(super) fn start(self, views: Arc<watch::Sender<View>>) -> Core {
        let (snapshots, snapshot) = watch::channel(self.view().snapshot);
        let (messages, inbox) = mpsc::channel(MAX_EVENTS);
        let mut tasks = JoinSet::new();
        let mut drivers = Vec::new();
        let RefreshReceivers { reads, hints, looks } = self.receivers;
        let mut of_primary = Some((self.services.refresh.looks(), looks, hints));
        let driven = std::iter::once((ServiceId::Primary, self.primary.clone(), self.saved_version)).chain(
            self.decrypt_only
                .iter()
                .enumerate()
                .map(|(number, other)| (ServiceId::DecryptOnly(number), other.key_service.clone(), 0)),
        );
        let cache = active_cache(&self.services);
        for (id, key_service, saved_version) in driven {
            let key_check = cache.clone().map(|keys| KeyCheck { keys, epoch: self.epoch });
            // The primary is the first one.
            let (looks, requests, hints) = of_primary.take().unwrap_or_else(|| {
                let (looks, requests) = mpsc::channel(MAX_LOOK_REQUESTS);
                (looks, requests, mpsc::channel(1).1)
            });
            drivers.push(looks);
            let renewer = key_service.clone();
            spawn(&mut tasks, "token renewer", async move { renewer.maintain().await });
            let driver = Driver {
                id,
                key_service,
                health: self.health,
                messages: messages.clone(),
                snapshot: snapshot.clone(),
                saved_version,
                requests,
                hints,
                key_check,
            };
            spawn(&mut tasks, "driver", driver.run());
        }
        spawn(&mut tasks, "refresher", health::run_refresher(reads, drivers));
        let publisher = Publisher {
            state: self.state,
            primary: self.primary,
            decrypt_only: self.decrypt_only,
            identity: self.identity,
            local_keks: cache,
            output: Output { snapshots, publish: publish(views.clone(), self.services.clone()) },
        };
        if self.services.local_kek_policy.is_some() {
            let run = local_keks::run(self.services.clone(), views.subscribe());
            tasks.spawn(async move { ("local KEKs", run.await) });
        }
        spawn(&mut tasks, "state", publisher.run(inbox));
        Core { tasks, services: self.services, snapshot, messages }
    }
}

impl Core {
    /// Completes when a round trip has worked since the start of this core.
    pub(super) fn verified(&self) -> impl Future<Output = ()> + use<> {
        let mut snapshot = self.snapshot.clone();
        async move {
            if snapshot.wait_for(|snapshot| snapshot.verified).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Completes when every key service that only unwraps was checked: its key was read, or could not be read.
    pub(super) fn decrypt_only_checked(&self) -> impl Future<Output = ()> + use<> {
        let mut snapshot = self.snapshot.clone();
        async move {
            let checked = |other: &ServiceState| other.key.is_some() || other.problem.is_some();
            let _ended = snapshot.wait_for(|snapshot| snapshot.decrypt_only.iter().all(checked)).await;
        }
    }

    /// Makes a local KEK for the key in use. A failure is not reported here: the first call that needs the local KEK
    /// tries again, and reports it.
    pub(super) async fn prepare_local_kek(&self) {
        let snapshot = self.snapshot.borrow().clone();
        if let Some(key) = &snapshot.primary.key {
            let (keks, primary) = (&self.services.local_keks, self.services.primary.as_ref());
            let _made =
                keks.prepare(primary, KeyVersion::of_key(key), Deadline::after(PREPARE_TIMEOUT)).await;
        }
    }

    /// Sends an event about the primary, and waits until its result is published. False when the publisher has ended.
    pub(super) async fn send(&self, event: Event) -> bool {
        let (done, published) = oneshot::channel();
        let message = Message { service: ServiceId::Primary, event, done: Some(done) };
        self.messages.send(message).await.is_ok() && published.await.is_ok()
    }
}

fn spawn(tasks: &mut JoinSet<Ended>, task: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        work.await;
        (task, Ok(()))
    });
}

/// The cache of local KEKs, while they are on.
fn active_cache(services: &KeyServices) -> Option<Arc<Cache>> {
    services.local_kek_policy.map(|_| services.local_keks.clone())
}

/// Puts a snapshot into `views`, while `views` has these key services. Returns whether it has. What is known about the
/// configuration stays: the publisher of the snapshot knows nothing of it.
fn publish(views: Arc<watch::Sender<View>>, services: Arc<KeyServices>) -> Publish {
    Box::new(move |snapshot| {
        views.send_if_modified(|view| {
            let in_use = Arc::ptr_eq(&view.services, &services);
            if in_use {
                let config = view.snapshot.config.clone();
                view.snapshot = Arc::new(Snapshot { config, ..Snapshot::clone(snapshot) });
            }
            in_use
        })
    })
}

/// Why the agent ends, from the task that ended.
pub(super) fn cause_of(ended: Option<Result<Ended, JoinError>>) -> AgentError {
    match ended {
        Some(Ok((task, result))) => {
            AgentError::Task { task, cause: result.err().unwrap_or(TaskError::Returned) }
        }
        Some(Err(error)) => {
            AgentError::Task { task: "unknown", cause: TaskError::Panicked(error.to_string()) }
        }
        None => AgentError::Task { task: "all", cause: TaskError::NoTaskLeft },
    }
}
