//! A whole agent of one run: the real core, the real KMS service, the real local KEKs. What `Agent::start` and
//! `Agent::reload` do with sockets beside it, this does without.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::model::service::KEY;
use crate::agent::core::{Core, PreparedCore};
use crate::agent::timing::{ACCEPT_READ_TIMEOUT, VERIFY_TIMEOUT};
use crate::clock::Deadline;
use crate::config::Settings;
use crate::health::{Event, Snapshot};
use crate::kms::{KmsService, View};
use crate::local_kek::Cache;
use crate::telemetry::metrics::Metrics;
use crate::vault::Transport;

pub(super) struct Agent {
    core: Core,
    keks: Arc<Cache>,
    views: Arc<watch::Sender<View>>,
    metrics: Metrics,
    pub service: Arc<KmsService>,
    pub started: Instant,
    /// A core with reloaded settings that is being tested, and until when.
    reloading: Option<(Core, Instant)>,
}

impl Agent {
    /// Starts it with the descriptors that systemd held.
    pub(super) fn start(
        settings: &Settings,
        kept: Vec<(String, OwnedFd)>,
        transport: &Arc<dyn Transport>,
    ) -> Self {
        let metrics = Metrics::default();
        let list = settings.server.state_dir.join("wrapped-keys.json");
        let keks = Arc::new(Cache::open(kept, Some(list), settings.local_kek));
        let prepared = PreparedCore::new(settings, &metrics, keks.clone(), transport).unwrap();
        let views = Arc::new(watch::channel(prepared.view()).0);
        let core = prepared.start(views.clone());
        let service = Arc::new(KmsService::new(views.subscribe(), &settings.server, metrics.clone()));
        Self { core, keks, views, metrics, service, started: Instant::now(), reloading: None }
    }

    /// Kills it. Returns the descriptors that systemd holds.
    pub(super) async fn kill(mut self) -> Vec<(String, OwnedFd)> {
        let kept = self.keks.descriptors();
        if let Some((mut core, _)) = self.reloading.take() {
            core.tasks.shutdown().await;
        }
        self.core.tasks.shutdown().await;
        kept
    }

    pub(super) fn views(&self) -> watch::Receiver<View> {
        self.views.subscribe()
    }

    /// How many local KEKs and seeds of the primary are in memory, and it refuses.
    pub(super) fn refused_keys(&self) -> usize {
        self.core.services.local_keks.refused(KEY)
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.views.borrow().snapshot.clone()
    }

    /// Starts a core with the settings beside the one in use.
    pub(super) fn reload(&mut self, settings: &Settings, transport: &Arc<dyn Transport>) {
        let prepared = PreparedCore::new(settings, &self.metrics, self.keks.clone(), transport).unwrap();
        let core = prepared.start(self.views.clone());
        self.reloading = Some((core, Instant::now() + VERIFY_TIMEOUT));
    }

    /// Uses the reloaded core when a round trip has worked, and drops it when its time is over.
    pub(super) fn go_on(&mut self) {
        let Some((core, until)) = self.reloading.take() else { return };
        let verified = core.snapshot.borrow().verified;
        if verified {
            self.views.send_modify(|view| {
                *view = View { snapshot: core.snapshot.borrow().clone(), services: core.services.clone() };
            });
            self.core = core;
        } else if Instant::now() < until {
            self.reloading = Some((core, until));
        }
    }

    /// Reads the key, and accepts it when it is another one, like `kms-plugin accept-key`. `only_known`: not unless it is
    /// already known to be another one.
    pub(super) async fn accept(&self, only_known: bool) {
        let mismatch = || {
            let snapshot = self.core.snapshot.borrow();
            snapshot.reason.as_ref().is_some_and(|reason| reason.kind.is_mismatch())
        };
        if only_known && !mismatch() {
            return;
        }
        let _read = self.core.services.refresh.read(Deadline::after(ACCEPT_READ_TIMEOUT)).await;
        if mismatch() {
            self.core.send(Event::Accept).await;
        }
    }

    /// Asks for its health, like `/healthz`, and waits for no answer.
    pub(super) fn ask(&self) {
        let services = self.core.services.clone();
        tokio::spawn(async move { services.refresh.fresh().await });
    }

    /// The name of a task that ended by itself: none may.
    pub(super) fn ended(&mut self) -> Option<String> {
        self.core.tasks.try_join_next().map(|ended| format!("{:?}", ended.map(|(task, _)| task)))
    }

    pub(super) fn age(&self) -> Duration {
        self.started.elapsed()
    }
}
