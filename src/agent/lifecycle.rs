//! The lifecycle of an agent: start, serve, reload, and drain. It ends when it is asked to stop, or when a task ends
//! by itself.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::core::{Core, Ended, PreparedCore, cause_of};
use super::error::{AgentError, ReloadError, TaskError};
use super::listeners::Listeners;
use super::reload::{ReloadRequest, done};
use super::timing::{ACCEPT_READ_TIMEOUT, DECRYPT_ONLY_TIMEOUT, FILES_TIMEOUT, START_MARGIN, VERIFY_TIMEOUT};
use super::{memory, readiness, server_restart, status_line, watchdog};
use crate::admin::api_types::CommandFailed;
use crate::admin::{self, AdminCommands, CommandRequest, CommandResult, HostNames};
use crate::clock::Deadline;
use crate::config::Settings;
use crate::files;
use crate::health::{ConfigState, Event, Snapshot};
use crate::kms::{Incoming, KmsService, View};
use crate::local_kek::Cache;
use crate::socket::{BoundSocket, Heartbeat};
use crate::systemd::activation::Passed;
use crate::systemd::notify;
use crate::telemetry::metrics::Metrics;
use crate::vault::{Http, Transport};

/// Accepted connections that may wait for the server.
pub(super) const MAX_ACCEPTED: usize = 64;
/// Name of the list of wrapped keys in the state directory.
const WRAPPED_KEYS: &str = "wrapped-keys.json";
/// The task that serves KMS v2: draining waits for it.
const KMS_SERVER: &str = "kms server";

/// A running agent.
pub(crate) struct Agent {
    tasks: JoinSet<Ended>,
    core: Core,
    local_keks: Arc<Cache>,
    /// What calls see. A reload changes it; a publisher updates its snapshot.
    views: Arc<watch::Sender<View>>,
    metrics: Metrics,
    transport: Arc<dyn Transport>,
    accept_key: mpsc::Receiver<CommandRequest>,
    reload_sender: mpsc::Sender<ReloadRequest>,
    reload_requests: mpsc::Receiver<ReloadRequest>,
    stop: watch::Sender<bool>,
    drain_timeout: Duration,
    ready_timeout: Duration,
    admin: Option<SocketAddr>,
    runtime_dir: PathBuf,
    _admin_socket: BoundSocket,
}

impl Agent {
    /// Binds everything, then starts the tasks. When this returns, the socket is served; the snapshot shows whether
    /// the key service is reached. `passed` is what systemd passed to the process. Reload commands of an administrator
    /// go to `reload_commands`: only the caller knows where settings come from.
    ///
    /// # Errors
    /// When something cannot be bound, or TLS or the keyring cannot be set up. Then nothing is left behind.
    pub(crate) async fn start(
        settings: &Settings,
        passed: Passed,
        reload_commands: mpsc::Sender<CommandRequest>,
    ) -> Result<Self, AgentError> {
        let server = &settings.server;
        let metrics = Metrics::default();
        let list = server.state_dir.join(WRAPPED_KEYS);
        let policy = settings.local_kek;
        let open = move || Ok(Arc::new(Cache::open(passed.kept, Some(list), policy)));
        let local_keks = files::in_time(FILES_TIMEOUT, open).await.map_err(AgentError::Files)?;
        let transport: Arc<dyn Transport> = Arc::new(Http);
        let prepared = PreparedCore::read(settings, &metrics, local_keks.clone(), &transport).await?;
        let listeners = Listeners::bind(server, passed.listener).await?;

        let views = Arc::new(watch::channel(prepared.view()).0);
        let (stop, stopping) = watch::channel(false);
        let (accept_key, accept_key_commands) = mpsc::channel(1);
        let commands = AdminCommands { accept_key, reload: reload_commands };
        let (reload_sender, reload_requests) = mpsc::channel(1);
        let mut agent = Self {
            tasks: JoinSet::new(),
            core: prepared.start(views.clone()),
            local_keks,
            views,
            metrics,
            transport,
            accept_key: accept_key_commands,
            reload_sender,
            reload_requests,
            stop,
            drain_timeout: server.drain_timeout,
            ready_timeout: settings.health.ready_timeout,
            admin: listeners.admin(),
            runtime_dir: server.runtime_dir.clone(),
            _admin_socket: listeners.admin_socket_file,
        };
        let heartbeat = listeners.kms.heartbeat();
        let streams = agent.serve_kms(settings, stopping.clone());
        let accepting =
            listeners.kms.run(listeners.kms_path, streams.clone(), agent.metrics.clone(), stopping.clone());
        agent.spawn("acceptor", async { Ok(accepting.await?) });
        let accepting = listeners.watchdog.run(
            listeners.watchdog_path.clone(),
            streams,
            agent.metrics.clone(),
            stopping.clone(),
        );
        agent.spawn("private acceptor", async { Ok(accepting.await?) });
        let watched = heartbeat.clone();
        agent.spawn("watchdog", async move {
            watchdog::run(listeners.watchdog_path, watched).await;
            Ok(())
        });
        let (socket, address) = (listeners.admin_socket, listeners.admin_address);
        let names = admin::HostNames::new(&server.admin_hosts);
        agent.serve_admin(socket, address, names, commands, heartbeat, stopping);
        agent.spawn("memory", memory::run());
        Ok(agent)
    }

    fn spawn(
        &mut self,
        task: &'static str,
        work: impl Future<Output = Result<(), TaskError>> + Send + 'static,
    ) {
        self.tasks.spawn(async move { (task, work.await) });
    }

    /// Starts the KMS server. Returns where to send it accepted connections.
    fn serve_kms(
        &mut self,
        settings: &Settings,
        stopping: watch::Receiver<bool>,
    ) -> mpsc::Sender<UnixStream> {
        let service =
            Arc::new(KmsService::new(self.views.subscribe(), &settings.server, self.metrics.clone()));
        let (streams, accepted) = mpsc::channel(MAX_ACCEPTED);
        let incoming = Incoming::new(accepted, self.metrics.clone(), &settings.server.allowed_uids);
        self.spawn(
            KMS_SERVER,
            server_restart::in_place(KMS_SERVER, self.metrics.clone(), move || {
                let serving = crate::kms::serve(service.clone(), incoming.clone(), stopping.clone());
                async {
                    serving.await;
                    Ok::<(), TaskError>(())
                }
            }),
        );
        streams
    }

    /// Starts the servers of the admin API: on the private socket, and on the admin address where there is one.
    fn serve_admin(
        &mut self,
        socket: Arc<UnixListener>,
        address: Option<Arc<TcpListener>>,
        names: HostNames,
        commands: AdminCommands,
        heartbeat: Heartbeat,
        stopping: watch::Receiver<bool>,
    ) {
        let (views, keks) = (self.views.subscribe(), self.local_keks.clone());
        let liveness: admin::Liveness = Arc::new(move || heartbeat.alive());
        let looked = views.clone();
        let look = move || {
            let services = looked.borrow().services.clone();
            let look: BoxFuture<'static, ()> = Box::pin(async move { services.refresh.fresh().await });
            look
        };
        let snapshots = admin::Snapshots::new(move || views.borrow().snapshot.clone(), look);
        let fingerprints: admin::LocalKekFingerprints = Arc::new(move || keks.fingerprints());
        let metrics = self.metrics.clone();
        let router = admin::router(
            snapshots.clone(),
            liveness.clone(),
            metrics.clone(),
            commands,
            fingerprints,
            names.clone(),
        );
        let until = stopping.clone();
        self.spawn(
            "admin socket",
            server_restart::in_place("admin socket's server", metrics.clone(), move || {
                let serving = admin::serve_unix(socket.clone(), router.clone(), until.clone());
                async {
                    serving.await;
                    Ok(())
                }
            }),
        );
        if let Some(address) = address {
            let router = admin::public_router(snapshots, liveness, metrics.clone(), names);
            self.spawn(
                "admin address",
                server_restart::in_place("admin address's server", metrics, move || {
                    let serving = admin::serve_tcp(address.clone(), router.clone(), stopping.clone());
                    async {
                        serving.await;
                        Ok(())
                    }
                }),
            );
        }
    }

    /// Follows what calls see.
    pub(crate) fn view(&self) -> watch::Receiver<View> {
        self.views.subscribe()
    }

    /// Where a failed reload is shown.
    pub(super) fn views(&self) -> Arc<watch::Sender<View>> {
        self.views.clone()
    }

    /// Where to send reload requests.
    pub(crate) fn reload_sender(&self) -> mpsc::Sender<ReloadRequest> {
        self.reload_sender.clone()
    }

    /// The runtime directory, which holds the private sockets.
    pub(crate) fn runtime_dir(&self) -> &Path {
        &self.runtime_dir
    }

    /// Where the admin API listens; with port 0 configured, with the port that the system chose.
    pub(crate) fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Serves until `stop` completes, then drains; `abort` ends the drain early. A task that ends by itself ends the
    /// agent.
    ///
    /// # Errors
    /// Which task ended and why, or that calls were cut off while draining.
    pub(crate) async fn run(
        mut self,
        stop: impl Future<Output = ()>,
        abort: impl Future<Output = ()>,
    ) -> Result<(), AgentError> {
        notify::starting(self.ready_timeout + START_MARGIN);
        let ready = readiness::run(self.views.subscribe(), self.ready_timeout);
        self.spawn("readiness", async move {
            ready.await;
            std::future::pending().await
        });
        self.spawn("status line", status_line::run(self.views.subscribe()));
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                ended = self.tasks.join_next() => return Err(cause_of(ended)),
                ended = self.core.tasks.join_next() => return Err(cause_of(ended)),
                Some(answer) = self.accept_key.recv() => {
                    let _gone = answer.send(self.accept().await);
                }
                Some((settings, answer)) = self.reload_requests.recv() => {
                    let reloaded = tokio::select! {
                        reloaded = self.reload(&settings) => reloaded,
                        () = &mut stop => break,
                    };
                    let _gone = answer.send(reloaded);
                }
            }
        }
        self.drain(abort).await
    }

    /// Accepts a replaced or rolled-back key.
    async fn accept(&self) -> CommandResult {
        let mismatch =
            |snapshot: &Snapshot| snapshot.reason.as_ref().is_some_and(|reason| reason.kind.is_mismatch());
        if !mismatch(&self.core.snapshot.borrow()) {
            // The key may have changed since the last read.
            let _read = self.core.services.refresh.read(Deadline::after(ACCEPT_READ_TIMEOUT)).await;
        }
        let failed = |error: &str| CommandFailed { error: error.to_owned() };
        if !mismatch(&self.core.snapshot.borrow()) {
            return Err(failed("nothing to accept: the key is the one that the agent knows"));
        }
        match self.core.send(Event::Accept).await {
            true => Ok(done(&self.views.borrow())),
            false => Err(failed("the agent is stopping")),
        }
    }

    /// Starts a core with the new settings beside the old one, and uses it once a round trip has worked. Connections
    /// stay open. A call that has begun ends with the core that it began with.
    async fn reload(&mut self, settings: &Settings) -> Result<(), ReloadError> {
        let keks = self.local_keks.clone();
        let prepared = PreparedCore::read(settings, &self.metrics, keks, &self.transport).await;
        let prepared = prepared.map_err(ReloadError::KeyServices)?;
        let core = prepared.start(self.views.clone());
        if tokio::time::timeout(VERIFY_TIMEOUT, core.verified()).await.is_err() {
            let state = core.snapshot.borrow().details();
            return Err(ReloadError::NotVerified { within: VERIFY_TIMEOUT, state });
        }
        // After a reload, /healthz must not show a key service as unknown: an administrator who moves to another key
        // looks at it then. A key service that cannot be reached does not make the reload fail; /healthz shows it.
        let _in_time = tokio::time::timeout(DECRYPT_ONLY_TIMEOUT, core.decrypt_only_checked()).await.is_ok();
        if settings.local_kek.is_some() {
            // The first call with the new settings must find a local KEK.
            self.local_keks.set_policy(settings.local_kek);
            core.prepare_local_kek().await;
            // The first snapshot that is shown must have the new policy and the new local KEK.
            core.send(Event::Tick).await;
        }
        let mut snapshot = Snapshot::clone(&core.snapshot.borrow());
        snapshot.config = ConfigState { digest: settings.digest.as_str().into(), problem: None };
        self.views.send_modify(|view| {
            *view = View { snapshot: Arc::new(snapshot), services: core.services.clone() };
        });
        self.core = core;
        if settings.local_kek.is_none() {
            self.local_keks.set_policy(None);
        }
        Ok(())
    }

    async fn drain(mut self, abort: impl Future<Output = ()>) -> Result<(), AgentError> {
        notify::stopping(self.drain_timeout);
        self.core.send(Event::Stop).await;
        tracing::info!("stopping: waiting up to {:?} for calls in flight", self.drain_timeout);
        self.stop.send_replace(true);
        let servers = async {
            while let Some(ended) = self.tasks.join_next().await {
                // Other tasks may end first. A panic has no task name, and ends the wait, too.
                if !matches!(ended, Ok((task, _)) if task != KMS_SERVER) {
                    return;
                }
            }
        };
        let drained = tokio::select! {
            drained = tokio::time::timeout(self.drain_timeout, servers) => {
                drained.map_err(|_| AgentError::Drain(self.drain_timeout))
            }
            () = abort => Err(AgentError::Aborted),
        };
        self.tasks.shutdown().await;
        // The last changes may not be saved yet.
        let _saved = self.local_keks.save().await;
        drained
    }
}
