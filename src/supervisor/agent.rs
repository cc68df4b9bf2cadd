//! The agent: binds what it serves on, starts its tasks, and ends when one of them does or it is told to.

use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tonic::transport::Server;

use super::acceptor::Acceptor;
use super::dispatcher;
use super::error::AgentError;
use super::identity::IdentityFile;
use super::observer::Observer;
use super::phase::{Event, Rules, State};
use super::publisher::{Message, Place, Publisher};
use super::restart;
use super::services;
use super::watchdog;
use crate::clock::BootTime;
use crate::config::Settings;
use crate::health::{self, AcceptRequest};
use crate::kms::{Incoming, KmsService, KmsStream, MAX_MESSAGE, Refresh, Routes};
use crate::proto::key_management_service_server::KeyManagementServiceServer;
use crate::snapshot::Snapshot;
use crate::socket::BoundSocket;
use crate::systemd::notify;

/// Events that may wait for the publisher.
const MAX_EVENTS: usize = 64;
/// Streams that one connection may have open at once.
const MAX_STREAMS: u32 = 256;
/// How often a draining agent looks whether calls are under way.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// Time for the last answers to leave, after the last call has ended.
const LAST_ANSWERS: Duration = Duration::from_millis(100);
/// Accepted connections that may wait for the server.
const MAX_ACCEPTED: usize = 64;
/// Name of the watchdog's private socket in the runtime directory.
const WATCHDOG_SOCKET: &str = "watchdog.sock";
/// Name of the admin socket in the runtime directory.
pub const ADMIN_SOCKET: &str = "admin.sock";

/// The task that serves the socket.
const KMS_SERVER: &str = "kms server";

/// A task's name and how it ended.
type Ended = (&'static str, Result<(), String>);

/// A running agent.
pub struct Agent {
    tasks: JoinSet<Ended>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    messages: mpsc::Sender<Message>,
    stop: watch::Sender<bool>,
    drain_timeout: Duration,
    ready_timeout: Duration,
    admin: Option<SocketAddr>,
    _admin_socket: BoundSocket,
}

impl Agent {
    /// Binds everything, then starts the tasks. When this returns, the socket is served; whether the key
    /// service is reached shows in the snapshot.
    ///
    /// # Errors
    /// When something cannot be bound, or TLS or the keyring cannot be set up. Nothing is left behind.
    pub async fn start(settings: &Settings) -> Result<Self, AgentError> {
        let server = &settings.server;
        let runtime_dir = |cause| AgentError::RuntimeDir { path: server.runtime_dir.clone(), cause };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&server.runtime_dir)
            .map_err(runtime_dir)?;
        let (primary, decrypt_only) = services::build(settings)?;
        let socket = Acceptor::open(&server.socket)?;
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

        let identity = IdentityFile::in_directory(&server.runtime_dir);
        let rules = Rules {
            scope: primary.scope().clone(),
            epoch: settings.primary.key_id_epoch(),
            grace: settings.health.outage_grace,
            sealed_is_denied: settings.health.sealed_is_denied,
            expect_created: settings.primary.expect_created(),
        };
        let saved = identity.load(&rules.scope, rules.epoch);
        let version = saved.as_ref().map_or(0, |(key, _)| key.version);
        primary.expect_cluster(saved.as_ref().and_then(|(key, _)| key.cluster_id.clone()));
        let routes = Arc::new(Routes {
            primary: primary.clone(),
            decrypt_only: decrypt_only.iter().map(|other| other.backend.clone()).collect(),
            accept_foreign: settings.primary.accept_foreign_ciphertext(),
        });
        let state = State::new(rules, saved, BootTime::now());
        let publisher = Publisher { state, primary, decrypt_only, identity };
        let (snapshot_sender, snapshot) = watch::channel(Arc::new(publisher.render()));

        let (messages, inbox) = mpsc::channel(MAX_EVENTS);
        let (stop, stopping) = watch::channel(false);
        let mut agent = Self {
            tasks: JoinSet::new(),
            snapshot,
            messages,
            stop,
            drain_timeout: server.drain_timeout,
            ready_timeout: settings.health.ready_timeout,
            admin,
            _admin_socket: admin_socket,
        };
        let (refresh, requests) = Refresh::channel();
        let observers = agent.watch(&routes, settings, version);
        agent.spawn("refresh", async move {
            dispatcher::run(requests, observers).await;
            Ok(())
        });
        agent.spawn("state", async move {
            publisher.run(inbox, snapshot_sender).await;
            Ok(())
        });
        let beat = socket.heartbeat();
        let streams = agent.serve_kms(routes, refresh, settings, stopping.clone());
        agent.spawn("acceptor", socket.run(server.socket.clone(), streams.clone(), stopping.clone()));
        let path = server.runtime_dir.join(WATCHDOG_SOCKET);
        agent.spawn("private acceptor", watchdog_socket.run(path.clone(), streams, stopping.clone()));
        agent.spawn("watchdog", async move {
            watchdog::run(path, beat).await;
            Ok(())
        });
        let accept = agent.accept_requests();
        let (router, listener) = (health::router(agent.snapshot.clone(), accept), Arc::new(private_admin));
        let until = stopping.clone();
        agent.spawn(
            "admin socket",
            restart::in_place("admin socket's server", move || {
                health::serve_unix(listener.clone(), router.clone(), until.clone())
            }),
        );
        if let Some(listener) = admin_listener.map(Arc::new) {
            let router = health::public_router(agent.snapshot.clone());
            agent.spawn(
                "admin address",
                restart::in_place("admin address's server", move || {
                    health::serve_tcp(listener.clone(), router.clone(), stopping.clone())
                }),
            );
        }
        Ok(agent)
    }

    fn spawn(&mut self, task: &'static str, work: impl Future<Output = Result<(), String>> + Send + 'static) {
        self.tasks.spawn(async move { (task, work.await) });
    }

    /// Starts an observer and the upkeep of each key service; returns where to ask them for a read.
    fn watch(
        &mut self,
        routes: &Routes,
        settings: &Settings,
        version: u32,
    ) -> Vec<mpsc::Sender<tokio::sync::oneshot::Sender<()>>> {
        let others = routes
            .decrypt_only
            .iter()
            .enumerate()
            .map(|(number, backend)| (Place::DecryptOnly(number), backend));
        let services: Vec<_> = std::iter::once((Place::Primary, &routes.primary))
            .chain(others)
            .map(|(place, backend)| (place, backend.clone()))
            .collect();
        let mut asking = Vec::new();
        for (place, backend) in services {
            let (ask, requests) = mpsc::channel(4);
            asking.push(ask);
            let upkeep = backend.clone();
            self.spawn("token upkeep", async move {
                upkeep.maintain().await;
                Ok(())
            });
            let observer = Observer {
                place,
                backend,
                health: settings.health,
                messages: self.messages.clone(),
                version: if place == Place::Primary { version } else { 0 },
                requests,
            };
            self.spawn("observer", async move {
                observer.run().await;
                Ok(())
            });
        }
        asking
    }

    /// Starts the KMS server; returns where its connections are handed in.
    fn serve_kms(
        &mut self,
        routes: Arc<Routes>,
        refresh: Refresh,
        settings: &Settings,
        stopping: watch::Receiver<bool>,
    ) -> mpsc::Sender<KmsStream> {
        let service = KmsService::new(self.snapshot.clone(), routes, Arc::new(refresh), &settings.server);
        let service = Arc::new(service);
        let (streams, accepted) = mpsc::channel(MAX_ACCEPTED);
        let incoming = Incoming::new(accepted);
        self.spawn(
            KMS_SERVER,
            restart::in_place(KMS_SERVER, move || serve(service.clone(), incoming.clone(), stopping.clone())),
        );
        streams
    }

    /// Requests of an administrator to accept a changed key, answered once the snapshot is new.
    fn accept_requests(&mut self) -> mpsc::Sender<AcceptRequest> {
        let (sender, mut requests) = mpsc::channel::<AcceptRequest>(1);
        let (messages, snapshot) = (self.messages.clone(), self.snapshot.clone());
        self.spawn("accept-key", async move {
            while let Some(answer) = requests.recv().await {
                let mismatch = |snapshot: &Snapshot| {
                    snapshot.reason.as_ref().is_some_and(|reason| reason.kind.is_mismatch())
                };
                let result = if mismatch(&snapshot.borrow()) {
                    let (done, published) = tokio::sync::oneshot::channel();
                    let message = Message { place: Place::Primary, event: Event::Accept, done: Some(done) };
                    let sent = messages.send(message).await.is_ok() && published.await.is_ok();
                    if sent { Ok(snapshot.borrow().line()) } else { Err("the agent is stopping".to_owned()) }
                } else {
                    Err("nothing is to be accepted: the key is the one that the agent knows".to_owned())
                };
                let _gone = answer.send(result);
            }
            Ok(())
        });
        sender
    }

    /// The snapshot, to follow.
    pub fn snapshot(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
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
        let mut snapshot = self.snapshot.clone();
        let ready_timeout = self.ready_timeout;
        // READY must not wait for the key service for ever: the kubelet is started after us.
        self.spawn("readiness", async move {
            let proven = snapshot.wait_for(|snapshot| snapshot.proven);
            let _in_time = tokio::time::timeout(ready_timeout, proven).await.is_ok();
            let line = snapshot.borrow().line();
            notify::ready(&line);
            std::future::pending().await
        });
        tokio::select! {
            () = stop => {}
            ended = self.tasks.join_next() => return Err(cause_of(ended)),
        }
        self.drain(abort).await
    }

    async fn drain(mut self, abort: impl Future<Output = ()>) -> Result<(), AgentError> {
        notify::stopping(self.drain_timeout);
        let stopping = Message { place: Place::Primary, event: Event::Stop, done: None };
        let _full = self.messages.try_send(stopping);
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
        drained
    }
}

/// Serves KMS v2 until `stopping`, and then until no call is under way.
async fn serve(
    calls: Arc<KmsService>,
    incoming: Incoming,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), String> {
    let service = KeyManagementServiceServer::new(calls.clone()).max_decoding_message_size(MAX_MESSAGE);
    let mut told = stopping.clone();
    let serving = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, async move {
            let _stopped = stopping.wait_for(|stop| *stop).await;
        });
    // A peer that keeps an idle connection open does not hold up the end: calls do.
    let drained = async move {
        let _stopped = told.wait_for(|stop| *stop).await.is_ok();
        // Calls that were sent while the peers learnt of the stop still end: idle twice in a row.
        while !calls.is_idle() || !idle_after(LAST_ANSWERS, &calls).await {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    };
    tokio::select! {
        served = serving => served.map_err(|error| error.to_string()),
        () = drained => Ok(()),
    }
}

async fn idle_after(pause: Duration, calls: &KmsService) -> bool {
    tokio::time::sleep(pause).await;
    calls.is_idle()
}

fn cause_of(ended: Option<Result<Ended, JoinError>>) -> AgentError {
    match ended {
        Some(Ok((task, result))) => {
            AgentError::Task { task, cause: result.err().unwrap_or_else(|| "without an error".into()) }
        }
        Some(Err(error)) => AgentError::Task { task: "unknown", cause: error.to_string() },
        None => AgentError::Task { task: "all", cause: "nothing is left to run".into() },
    }
}
