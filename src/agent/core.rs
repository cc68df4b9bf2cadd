//! Everything that hangs on the key services: their upkeep, the observers, the state. A reload starts a
//! new core beside the old one, and takes its place only when it has proven itself.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};

use super::error::{AgentError, TaskError};
use super::{local_keks, services};
use crate::clock::{BootTime, Deadline};
use crate::config::Settings;
use crate::config::settings::Health;
use crate::health::{
    self, DecryptOnly, Event, IdentityFile, Message, Observer, Output, Publisher, Refresh, RefreshRequests,
    Rules, ServiceId, ServiceState, Snapshot, State,
};
use crate::key_service::{KeyService, KeyVersion};
use crate::kms::{Link, Routes, View};
use crate::local_kek::{Cache, KeyCheck};
use crate::telemetry::metrics::Metrics;

/// Events that may wait for the publisher.
const MAX_EVENTS: usize = 64;

/// Time to make a local KEK before a reload takes effect.
const PREPARE: Duration = Duration::from_secs(3);

/// A task's name and how it ended.
pub(super) type Ended = (&'static str, Result<(), TaskError>);

/// A core made ready: files are read, nothing is sent yet.
pub(super) struct Prepared {
    health: Health,
    state: State,
    version: u32,
    epoch: u32,
    identity: IdentityFile,
    primary: Arc<dyn KeyService>,
    decrypt_only: Vec<DecryptOnly>,
    link: Arc<Link>,
    requests: RefreshRequests,
}

/// A running core; its tasks end with it.
pub(super) struct Core {
    pub tasks: JoinSet<Ended>,
    pub link: Arc<Link>,
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    pub messages: mpsc::Sender<Message>,
}

impl Prepared {
    /// Makes the key services of `settings` ready, with what an earlier run or core has saved.
    ///
    /// `keys` outlive it: a reload must not lose one.
    pub(super) fn new(settings: &Settings, metrics: &Metrics, keys: Arc<Cache>) -> Result<Self, AgentError> {
        let (primary, decrypt_only) = services::build(settings, metrics)?;
        let identity = IdentityFile::in_directory(&settings.server.runtime_dir);
        let rules = Rules {
            scope: primary.scope().clone(),
            epoch: settings.primary.key_id_epoch(),
            grace: settings.health.outage_grace,
            sealed_is_denied: settings.health.sealed_is_denied,
            expect_created: settings.primary.expect_created(),
        };
        let saved = identity.load(&rules.scope, rules.epoch);
        primary.expect_cluster(saved.as_ref().and_then(|(key, _)| key.cluster_id.clone()));
        let routes = Routes {
            primary: primary.clone(),
            decrypt_only: decrypt_only.iter().map(|other| other.key_service.clone()).collect(),
            accept_foreign_ciphertext: settings.primary.accept_foreign_ciphertext(),
        };
        let (refresh, requests) = Refresh::channel();
        Ok(Self {
            health: settings.health,
            version: saved.as_ref().map_or(0, |(key, _)| key.version),
            epoch: rules.epoch,
            state: State::new(rules, saved, BootTime::now()),
            identity,
            primary,
            decrypt_only,
            link: Arc::new(Link { routes, refresh, keys, policy: settings.local_kek }),
            requests,
        })
    }

    /// What the views show before the first event.
    pub(super) fn view(&self) -> View {
        let snapshot =
            health::render(&self.state, &self.primary, &self.decrypt_only, local_keks(&self.link).as_deref());
        View { snapshot: Arc::new(snapshot), link: self.link.clone() }
    }

    /// Starts the tasks. `views` show this core while they are linked to it.
    pub(super) fn start(self, views: Arc<watch::Sender<View>>) -> Core {
        let (own, snapshot) = watch::channel(self.view().snapshot);
        let (messages, inbox) = mpsc::channel(MAX_EVENTS);
        let mut tasks = JoinSet::new();
        let mut observers = Vec::new();
        let services = std::iter::once((ServiceId::Primary, self.primary.clone(), self.version)).chain(
            self.decrypt_only
                .iter()
                .enumerate()
                .map(|(number, other)| (ServiceId::DecryptOnly(number), other.key_service.clone(), 0)),
        );
        for (id, key_service, version) in services {
            let recheck_hints = match id {
                ServiceId::Primary => self.link.refresh.recheck_hints(),
                ServiceId::DecryptOnly(_) => Arc::default(),
            };
            let local =
                self.link.policy.map(|_| KeyCheck { keys: self.link.keys.clone(), epoch: self.epoch });
            let (ask, requests) = mpsc::channel(4);
            observers.push(ask);
            let renewer = key_service.clone();
            spawn(&mut tasks, "token renewer", async move { renewer.maintain().await });
            let observer = Observer {
                id,
                key_service,
                health: self.health,
                messages: messages.clone(),
                version,
                requests,
                recheck_hints,
                local,
            };
            spawn(&mut tasks, "observer", observer.run());
        }
        spawn(&mut tasks, "refresher", health::run_refresher(self.requests, observers));
        let publisher = Publisher {
            state: self.state,
            primary: self.primary,
            decrypt_only: self.decrypt_only,
            identity: self.identity,
            local_keks: local_keks(&self.link),
            output: Output { own, show: show(views.clone(), self.link.clone()) },
        };
        if self.link.policy.is_some() {
            let run = local_keks::run(self.link.clone(), views.subscribe());
            tasks.spawn(async move { ("local KEKs", run.await) });
        }
        spawn(&mut tasks, "state", publisher.run(inbox));
        Core { tasks, link: self.link, snapshot, messages }
    }
}

impl Core {
    /// Completes when a round trip has worked since the start.
    pub(super) fn proven(&self) -> impl Future<Output = ()> + use<> {
        let mut snapshot = self.snapshot.clone();
        async move {
            if snapshot.wait_for(|snapshot| snapshot.proven).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Completes when every key service that only unwraps was looked at: read, or found not to be readable.
    pub(super) fn looked(&self) -> impl Future<Output = ()> + use<> {
        let mut snapshot = self.snapshot.clone();
        async move {
            let looked = |other: &ServiceState| other.key.is_some() || other.problem.is_some();
            let _ended = snapshot.wait_for(|snapshot| snapshot.decrypt_only.iter().all(looked)).await;
        }
    }

    /// Has the local KEK made for the key in use. A failure is told by whoever needs it: it is tried again.
    pub(super) async fn prepare_key(&self) {
        let snapshot = self.snapshot.borrow().clone();
        if let Some(key) = &snapshot.primary.key {
            let (keys, primary) = (&self.link.keys, self.link.routes.primary.as_ref());
            let _made = keys.prepare(primary, KeyVersion::of_key(key), Deadline::after(PREPARE)).await;
        }
    }

    /// Sends an event of the primary, and waits until it is published.
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

/// The cache, as far as the snapshot shows it.
fn local_keks(link: &Link) -> Option<Arc<Cache>> {
    link.policy.map(|_| link.keys.clone())
}

/// Shows a snapshot to everybody, while the views show the core of `link`. Returns whether they do.
fn show(views: Arc<watch::Sender<View>>, link: Arc<Link>) -> Box<dyn Fn(&Arc<Snapshot>) -> bool + Send> {
    Box::new(move |snapshot| {
        views.send_if_modified(|view| {
            let ours = Arc::ptr_eq(&view.link, &link);
            if ours {
                view.snapshot = snapshot.clone();
            }
            ours
        })
    })
}

/// Why a task that must not end did.
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
