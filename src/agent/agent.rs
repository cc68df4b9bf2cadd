//! The agent: binds what it serves on, starts its tasks, and ends when one of them does or it is told to.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::core::{Core, Ended, Prepared, cause_of};
use super::error::{AgentError, ReloadError, TaskError};
use super::reload::{ReloadRequest, done};
use super::{restart, status_line, watchdog};
use crate::admin::types::CommandFailed;
use crate::admin::{self, AdminCommands, CommandRequest, CommandResult};
use crate::clock::Deadline;
use crate::config::Settings;
use crate::health::{Event, Snapshot};
use crate::kms::{Incoming, KmsService, View};
use crate::local_kek::Cache;
use crate::socket::{Acceptor, BoundSocket, SocketError};
use crate::systemd::{activation, notify};
use crate::telemetry::metrics::Metrics;

/// How long a reloaded configuration may take to prove itself with a round trip.
const PROOF: Duration = Duration::from_secs(15);
/// How long a reload waits for a first look at the key services that only unwrap.
const LOOKED: Duration = Duration::from_secs(5);
/// Accepted connections that may wait for the server.
const MAX_ACCEPTED: usize = 64;
/// What a start takes beside the wait for readiness, at most.
const START_SLACK: Duration = Duration::from_secs(30);
/// Time for the read of the key before a change of it is accepted.
const ACCEPT_READ: Duration = Duration::from_secs(3);
/// Name of the watchdog's private socket in the runtime directory.
const WATCHDOG_SOCKET: &str = "watchdog.sock";
/// Name of the list of wrapped keys in the state directory.
const WRAPPED_KEYS: &str = "wrapped-keys.json";
/// The task that serves the socket.
const KMS_SERVER: &str = "kms server";

/// A running agent.
pub(crate) struct Agent {
    tasks: JoinSet<Ended>,
    core: Core,
    keys: Arc<Cache>,
    views: Arc<watch::Sender<View>>,
    metrics: Metrics,
    accept_key: mpsc::Receiver<CommandRequest>,
    reloads: (mpsc::Sender<ReloadRequest>, mpsc::Receiver<ReloadRequest>),
    stop: watch::Sender<bool>,
    drain_timeout: Duration,
    ready_timeout: Duration,
    admin: Option<SocketAddr>,
    runtime_dir: PathBuf,
    _admin_socket: BoundSocket,
}

impl Agent {
    /// Binds everything, then starts the tasks. When this returns, the socket is served; whether the key
    /// service is reached shows in the snapshot. An administrator's reload commands go to `reload_commands`: only the
    /// caller knows where settings come from.
    ///
    /// # Errors
    /// When something cannot be bound, or TLS or the keyring cannot be set up. Nothing is left behind.
    pub(crate) async fn start(
        settings: &Settings,
        reload_commands: mpsc::Sender<CommandRequest>,
    ) -> Result<Self, AgentError> {
        let server = &settings.server;
        let runtime_dir = |cause| AgentError::RuntimeDir { path: server.runtime_dir.clone(), cause };
        let metrics = Metrics::default();
        let passed = activation::take(Cache::store_prefix());
        let passed = passed.map_err(|cause| SocketError::not_adopted(&server.socket, cause))?;
        let list = server.state_dir.join(WRAPPED_KEYS);
        let keys = Arc::new(Cache::open(passed.kept, Some(list), settings.local_kek));
        let prepared = Prepared::new(settings, &metrics, keys.clone())?;
        let socket = Acceptor::open(&server.socket, passed.listener)?;
        let watchdog_socket = Acceptor::bind(&server.runtime_dir.join(WATCHDOG_SOCKET))?;
        let admin_socket = BoundSocket::bind(&server.runtime_dir.join(admin::client::SOCKET))?;
        let (admin_listener, admin) = match server.admin {
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                let listener = bound.map_err(|cause| AgentError::Admin { address, cause })?;
                let local = listener.local_addr().ok();
                (Some(listener), local)
            }
            None => (None, None),
        };
        let private_admin = admin_socket.listener().and_then(UnixListener::from_std).map_err(runtime_dir)?;

        let views = Arc::new(watch::channel(prepared.view()).0);
        let (stop, stopping) = watch::channel(false);
        let (accept_key, accept_key_commands) = mpsc::channel(1);
        let commands = AdminCommands { accept_key, reload: reload_commands };
        let mut agent = Self {
            tasks: JoinSet::new(),
            core: prepared.start(views.clone()),
            keys: keys.clone(),
            views,
            metrics: metrics.clone(),
            accept_key: accept_key_commands,
            reloads: mpsc::channel(1),
            stop,
            drain_timeout: server.drain_timeout,
            ready_timeout: settings.health.ready_timeout,
            admin,
            runtime_dir: server.runtime_dir.clone(),
            _admin_socket: admin_socket,
        };
        let heartbeat = socket.heartbeat();
        let watched = heartbeat.clone();
        let streams = agent.serve_kms(settings, stopping.clone());
        let path = server.socket.clone();
        let accepting = socket.run(path, streams.clone(), metrics.clone(), stopping.clone());
        agent.spawn("acceptor", async { Ok(accepting.await?) });
        let path = server.runtime_dir.join(WATCHDOG_SOCKET);
        let accepting = watchdog_socket.run(path.clone(), streams, metrics.clone(), stopping.clone());
        agent.spawn("private acceptor", async { Ok(accepting.await?) });
        agent.spawn("watchdog", async move {
            watchdog::run(path, watched).await;
            Ok(())
        });
        let shown = agent.views.subscribe();
        let alive: admin::Alive = Arc::new(move || heartbeat.alive());
        let snapshots: admin::Snapshots = Arc::new(move || shown.borrow().snapshot.clone());
        let local_keks: admin::LocalKekFingerprints = Arc::new(move || keys.fingerprints());
        let (router, listener) = (
            admin::router(snapshots.clone(), alive.clone(), metrics.clone(), commands, local_keks),
            Arc::new(private_admin),
        );
        let until = stopping.clone();
        agent.spawn(
            "admin socket",
            restart::in_place("admin socket's server", metrics.clone(), move || {
                let serving = admin::serve_unix(listener.clone(), router.clone(), until.clone());
                async { Ok::<(), TaskError>(serving.await) }
            }),
        );
        if let Some(listener) = admin_listener.map(Arc::new) {
            let router = admin::public_router(snapshots, alive, metrics.clone());
            agent.spawn(
                "admin address",
                restart::in_place("admin address's server", metrics, move || {
                    let serving = admin::serve_tcp(listener.clone(), router.clone(), stopping.clone());
                    async { Ok::<(), TaskError>(serving.await) }
                }),
            );
        }
        Ok(agent)
    }

    fn spawn(
        &mut self,
        task: &'static str,
        work: impl Future<Output = Result<(), TaskError>> + Send + 'static,
    ) {
        self.tasks.spawn(async move { (task, work.await) });
    }

    /// Starts the KMS server; returns where its connections are handed in.
    fn serve_kms(
        &mut self,
        settings: &Settings,
        stopping: watch::Receiver<bool>,
    ) -> mpsc::Sender<UnixStream> {
        let service =
            Arc::new(KmsService::new(self.views.subscribe(), &settings.server, self.metrics.clone()));
        let (streams, accepted) = mpsc::channel(MAX_ACCEPTED);
        let incoming = Incoming::new(accepted, self.metrics.clone());
        self.spawn(
            KMS_SERVER,
            restart::in_place(KMS_SERVER, self.metrics.clone(), move || {
                let serving = crate::kms::serve(service.clone(), incoming.clone(), stopping.clone());
                async { Ok::<(), TaskError>(serving.await?) }
            }),
        );
        streams
    }

    /// The view, to follow.
    pub(crate) fn view(&self) -> watch::Receiver<View> {
        self.views.subscribe()
    }

    /// Where to send other settings to.
    pub(crate) fn reloader(&self) -> mpsc::Sender<ReloadRequest> {
        self.reloads.0.clone()
    }

    /// The runtime directory, which holds the private sockets.
    pub(crate) fn runtime_dir(&self) -> &Path {
        &self.runtime_dir
    }

    /// Where the admin API listens; with port 0 configured, the port that was chosen.
    pub(crate) fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Serves until `stop` completes, then drains; `abort` cuts that short. The first task that ends by
    /// itself ends the agent.
    ///
    /// # Errors
    /// The task that ended and why, or that draining was cut off.
    pub(crate) async fn run(
        mut self,
        stop: impl Future<Output = ()>,
        abort: impl Future<Output = ()>,
    ) -> Result<(), AgentError> {
        let (mut shown, ready_timeout) = (self.views.subscribe(), self.ready_timeout);
        notify::starting(ready_timeout + START_SLACK);
        // READY must not wait for the key service for ever: the kubelet is started after us.
        self.spawn("readiness", async move {
            let proven = shown.wait_for(|view| view.snapshot.proven);
            let _in_time = tokio::time::timeout(ready_timeout, proven).await.is_ok();
            notify::ready();
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
                Some((settings, answer)) = self.reloads.1.recv() => {
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
            // The key may have been changed since the last read.
            let _read = self.core.link.refresh.now(Deadline::after(ACCEPT_READ)).await;
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

    /// Starts a core with other settings beside the old one, and changes over when it has proven itself
    /// with a round trip. Connections stay; calls under way end where they began.
    async fn reload(&mut self, settings: &Settings) -> Result<(), ReloadError> {
        let prepared = Prepared::new(settings, &self.metrics, self.keys.clone());
        let prepared = prepared.map_err(ReloadError::KeyServices)?;
        let core = prepared.start(self.views.clone());
        if tokio::time::timeout(PROOF, core.proven()).await.is_err() {
            let state = core.snapshot.borrow().line();
            return Err(ReloadError::NotProven { within: PROOF, state });
        }
        // Whoever looks at /healthz after a reload, as in a move to another key, must not meet what is not known yet.
        // One that is away holds nothing up: it shows there.
        let _in_time = tokio::time::timeout(LOOKED, core.looked()).await.is_ok();
        if settings.local_kek.is_some() {
            // Whoever calls from now on finds a local KEK.
            self.keys.set_policy(settings.local_kek);
            core.prepare_key().await;
        }
        self.views.send_modify(|view| {
            *view = View { snapshot: core.snapshot.borrow().clone(), link: core.link.clone() };
        });
        self.core = core;
        if settings.local_kek.is_none() {
            self.keys.set_policy(None);
        }
        Ok(())
    }

    async fn drain(mut self, abort: impl Future<Output = ()>) -> Result<(), AgentError> {
        notify::stopping(self.drain_timeout);
        self.core.send(Event::Stop).await;
        tracing::info!("stopping: waiting up to {:?} for calls under way", self.drain_timeout);
        self.stop.send_replace(true);
        let servers = async {
            while let Some(ended) = self.tasks.join_next().await {
                // A panic has no name: it ends the wait, too.
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
        // What was seen in the last second.
        let _saved = self.keys.save().await;
        drained
    }
}
