//! The agent: binds what it serves on, starts its tasks, and ends when one of them does or it is told to.

use std::error::Error as _;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::acceptor::{Acceptor, not_taken};
use super::core::{Core, Ended, Prepared, cause_of};
use super::error::AgentError;
use super::keeper;
use super::kms_server::serve;
use super::phase::Event;
use super::restart;
use super::watchdog;
use crate::clock::Deadline;
use crate::config::Settings;
use crate::health::{self, AdminRequest, Wishes};
use crate::kms::{Incoming, KmsService, KmsStream, View};
use crate::local_kek::Cache;
use crate::snapshot::Snapshot;
use crate::socket::BoundSocket;
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
/// Name of the admin socket in the runtime directory.
pub const ADMIN_SOCKET: &str = "admin.sock";

/// The task that serves the socket.
const KMS_SERVER: &str = "kms server";

/// A wish to work with other settings; answered when they are in use, or why they are not.
pub type ReloadRequest = (Box<Settings>, oneshot::Sender<Result<(), String>>);

/// A running agent.
pub struct Agent {
    tasks: JoinSet<Ended>,
    core: Core,
    keys: Arc<Cache>,
    faces: Arc<watch::Sender<View>>,
    metrics: Metrics,
    accepts: mpsc::Receiver<AdminRequest>,
    reloads: (mpsc::Sender<ReloadRequest>, mpsc::Receiver<ReloadRequest>),
    stop: watch::Sender<bool>,
    drain_timeout: Duration,
    ready_timeout: Duration,
    admin: Option<SocketAddr>,
    _admin_socket: BoundSocket,
}

impl Agent {
    /// Binds everything, then starts the tasks. When this returns, the socket is served; whether the key
    /// service is reached shows in the snapshot. An administrator's wish to reload goes to `reload_wishes`:
    /// only the caller knows where settings come from.
    ///
    /// # Errors
    /// When something cannot be bound, or TLS or the keyring cannot be set up. Nothing is left behind.
    pub async fn start(
        settings: &Settings,
        reload_wishes: mpsc::Sender<AdminRequest>,
    ) -> Result<Self, AgentError> {
        let server = &settings.server;
        let runtime_dir = |cause| AgentError::RuntimeDir { path: server.runtime_dir.clone(), cause };
        let metrics = Metrics::default();
        let passed = activation::take(Cache::store_prefix());
        let passed = passed.map_err(|cause| not_taken(&server.socket, cause))?;
        let list = server.state_dir.join(WRAPPED_KEYS);
        let keys = Arc::new(Cache::open(passed.kept, Some(list), settings.local_kek));
        let prepared = Prepared::new(settings, &metrics, keys.clone())?;
        let socket = Acceptor::open(&server.socket, passed.listener)?;
        let watchdog_socket = Acceptor::bind(&server.runtime_dir.join(WATCHDOG_SOCKET))?;
        let admin_socket = BoundSocket::bind(&server.runtime_dir.join(ADMIN_SOCKET))?;
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

        let faces = Arc::new(watch::channel(prepared.view()).0);
        let (stop, stopping) = watch::channel(false);
        let (accept_key, accepts) = mpsc::channel(1);
        let wishes = Wishes { accept_key, reload: reload_wishes };
        let mut agent = Self {
            tasks: JoinSet::new(),
            core: prepared.start(faces.clone()),
            keys: keys.clone(),
            faces,
            metrics: metrics.clone(),
            accepts,
            reloads: mpsc::channel(1),
            stop,
            drain_timeout: server.drain_timeout,
            ready_timeout: settings.health.ready_timeout,
            admin,
            _admin_socket: admin_socket,
        };
        let beat = socket.heartbeat();
        let pulse = beat.clone();
        let streams = agent.serve_kms(settings, stopping.clone());
        agent.spawn(
            "acceptor",
            socket.run(server.socket.clone(), streams.clone(), metrics.clone(), stopping.clone()),
        );
        let path = server.runtime_dir.join(WATCHDOG_SOCKET);
        agent.spawn(
            "private acceptor",
            watchdog_socket.run(path.clone(), streams, metrics.clone(), stopping.clone()),
        );
        agent.spawn("watchdog", async move {
            watchdog::run(path, beat).await;
            Ok(())
        });
        agent.spawn("keys", keeper::watch(keys.clone(), agent.faces.subscribe()));
        agent.spawn("keeper", keeper::run(keys.clone(), agent.faces.subscribe()));
        agent.spawn("list of wrapped keys", keeper::save(keys.clone()));
        let shown = agent.faces.subscribe();
        let alive = pulse.alive();
        let snapshots: health::Snapshots = Arc::new(move || shown.borrow().snapshot.clone());
        let kept_keys: health::KeptKeys = Arc::new(move || keys.fingerprints());
        let (router, listener) = (
            health::router(snapshots.clone(), alive.clone(), metrics.clone(), wishes, kept_keys),
            Arc::new(private_admin),
        );
        let until = stopping.clone();
        agent.spawn(
            "admin socket",
            restart::in_place("admin socket's server", metrics.clone(), move || {
                health::serve_unix(listener.clone(), router.clone(), until.clone())
            }),
        );
        if let Some(listener) = admin_listener.map(Arc::new) {
            let router = health::public_router(snapshots, alive, metrics.clone());
            agent.spawn(
                "admin address",
                restart::in_place("admin address's server", metrics, move || {
                    health::serve_tcp(listener.clone(), router.clone(), stopping.clone())
                }),
            );
        }
        Ok(agent)
    }

    fn spawn(&mut self, task: &'static str, work: impl Future<Output = Result<(), String>> + Send + 'static) {
        self.tasks.spawn(async move { (task, work.await) });
    }

    /// Starts the KMS server; returns where its connections are handed in.
    fn serve_kms(&mut self, settings: &Settings, stopping: watch::Receiver<bool>) -> mpsc::Sender<KmsStream> {
        let service =
            Arc::new(KmsService::new(self.faces.subscribe(), &settings.server, self.metrics.clone()));
        let (streams, accepted) = mpsc::channel(MAX_ACCEPTED);
        let incoming = Incoming::new(accepted);
        self.spawn(
            KMS_SERVER,
            restart::in_place(KMS_SERVER, self.metrics.clone(), move || {
                serve(service.clone(), incoming.clone(), stopping.clone())
            }),
        );
        streams
    }

    /// The view, to follow.
    pub fn view(&self) -> watch::Receiver<View> {
        self.faces.subscribe()
    }

    /// Where to send other settings to.
    pub fn reloader(&self) -> mpsc::Sender<ReloadRequest> {
        self.reloads.0.clone()
    }

    /// Where the admin API listens; with port 0 configured, the port that was chosen.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Serves until `stop` completes, then drains; `abort` cuts that short. The first task that ends by
    /// itself ends the agent.
    ///
    /// # Errors
    /// The task that ended and why, or that draining was cut off.
    pub async fn run(
        mut self,
        stop: impl Future<Output = ()>,
        abort: impl Future<Output = ()>,
    ) -> Result<(), AgentError> {
        let (mut shown, ready_timeout) = (self.faces.subscribe(), self.ready_timeout);
        notify::starting(ready_timeout + START_SLACK);
        // READY must not wait for the key service for ever: the kubelet is started after us.
        self.spawn("readiness", async move {
            let proven = shown.wait_for(|view| view.snapshot.proven);
            let _in_time = tokio::time::timeout(ready_timeout, proven).await.is_ok();
            notify::ready();
            std::future::pending().await
        });
        self.spawn("status line", tell_status(self.faces.subscribe()));
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                ended = self.tasks.join_next() => return Err(cause_of(ended)),
                ended = self.core.tasks.join_next() => return Err(cause_of(ended)),
                Some(answer) = self.accepts.recv() => {
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
    async fn accept(&self) -> Result<String, String> {
        let mismatch =
            |snapshot: &Snapshot| snapshot.reason.as_ref().is_some_and(|reason| reason.kind.is_mismatch());
        if !mismatch(&self.core.snapshot.borrow()) {
            // The key may have been changed since it was read last.
            let _read = self.core.link.refresh.now(Deadline::after(ACCEPT_READ)).await;
        }
        if !mismatch(&self.core.snapshot.borrow()) {
            return Err("nothing is to be accepted: the key is the one that the agent knows".to_owned());
        }
        match self.core.tell(Event::Accept).await {
            true => Ok(self.core.snapshot.borrow().line()),
            false => Err("the agent is stopping".to_owned()),
        }
    }

    /// Starts a core with other settings beside the old one, and changes over when it has proven itself
    /// with a round trip. Connections stay; calls under way end where they began.
    async fn reload(&mut self, settings: &Settings) -> Result<(), String> {
        let prepared = Prepared::new(settings, &self.metrics, self.keys.clone()).map_err(|error| {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            format!("{error}{cause}")
        })?;
        let core = prepared.start(self.faces.clone());
        if tokio::time::timeout(PROOF, core.proven()).await.is_err() {
            let line = core.snapshot.borrow().line();
            return Err(format!("the new configuration did not work within {PROOF:?}: {line}"));
        }
        // Whoever looks at /healthz after a reload, as in a move to another key, must not meet what is not known yet.
        // One that is away holds nothing up: it shows there.
        let _in_time = tokio::time::timeout(LOOKED, core.looked()).await.is_ok();
        if settings.local_kek.is_some() {
            // Whoever calls from now on finds a local KEK.
            self.keys.set_policy(settings.local_kek);
            core.prepare_key().await;
        }
        self.faces.send_modify(|view| {
            *view = View { snapshot: core.snapshot.borrow().clone(), link: core.link.clone() };
        });
        self.core = core;
        Ok(())
    }

    async fn drain(mut self, abort: impl Future<Output = ()>) -> Result<(), AgentError> {
        notify::stopping(self.drain_timeout);
        self.core.tell(Event::Stop).await;
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
        self.keys.save().await;
        drained
    }
}

/// Sends the state's line to systemd whenever it is another one. Nobody else sends it: of two senders the later
/// could carry the older line.
async fn tell_status(mut views: watch::Receiver<View>) -> Result<(), String> {
    let mut told = String::new();
    loop {
        let line = views.borrow_and_update().snapshot.line();
        if line != told {
            notify::status(&line);
            told = line;
        }
        if views.changed().await.is_err() {
            return Err("nobody publishes the state".into());
        }
    }
}
