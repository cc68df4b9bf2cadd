//! The agent while its configuration does not load: it listens, says why it cannot work, and waits for a better one.
//!
//! Without it the process would end, and systemd would start it again each second: calls of the API server would wait
//! until their timeout, and the boot until systemd gives up.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::core::{Ended, cause_of};
use super::error::{AgentError, ReloadError};
use super::lifecycle::MAX_ACCEPTED;
use super::listeners::Listeners;
use super::reload::ReadSettings;
use super::stop_signals::Signals;
use super::timing::{CONFIG_INTERVAL, CONFIG_SETTLE, LAST_ANSWERS, LOAD_TIMEOUT, START_MARGIN};
use super::{services, watchdog};
use crate::admin::api_types::{CommandDone, CommandFailed, Phase as ApiPhase};
use crate::admin::{self, AdminCommands, CommandRequest, HostNames};
use crate::clock::{BootTime, until};
use crate::config::{Provisional, Settings};
use crate::files::FileAccess;
use crate::health::{Announce, ConfigState, Phase, Reason, ReasonKind, ServiceState, Snapshot};
use crate::key_service::KeyScope;
use crate::kms::{Incoming, serve_unconfigured};
use crate::socket::{BoundSocket, DirectoryWatch};
use crate::systemd::activation::Passed;
use crate::systemd::notify;
use crate::telemetry::metrics::Metrics;
use crate::vault::{Http, Transport};

/// What to do, where there is room for it.
const REMEDY: &str = "correct it (kms-plugin check shows all problems): the agent reads it again within seconds, without a restart";

/// Where the settings come from.
pub(crate) struct ConfigSource {
    pub read: ReadSettings,
    /// The directories of the files, to watch them.
    pub directories: Vec<PathBuf>,
    access: FileAccess,
}

impl ConfigSource {
    pub(crate) fn new(read: ReadSettings, directories: Vec<PathBuf>) -> Self {
        Self { read, directories, access: FileAccess::with_limit(LOAD_TIMEOUT) }
    }

    /// Reads the settings, and checks them.
    async fn load(&self) -> Result<Settings, ReloadError> {
        let read = self.read.clone();
        let load = move || {
            let settings = read().map_err(ReloadError::Configuration)?;
            check(&settings)?;
            Ok(settings)
        };
        self.access.run(load).await.unwrap_or_else(|hung| Err(ReloadError::Configuration(hung.into())))
    }

    /// Reads the TLS files that the settings name. Sends nothing.
    ///
    /// # Errors
    /// Why the settings cannot be used.
    pub(crate) async fn check(&self, settings: &Settings) -> Result<(), ReloadError> {
        let settings = settings.clone();
        let checked = self.access.run(move || check(&settings)).await;
        checked.unwrap_or_else(|hung| Err(ReloadError::KeyServices(AgentError::Files(hung))))
    }
}

fn check(settings: &Settings) -> Result<(), ReloadError> {
    let transport: Arc<dyn Transport> = Arc::new(Http);
    services::build(settings, &Metrics::default(), &transport).map(drop).map_err(ReloadError::KeyServices)
}

/// A process without a configuration, that listens.
pub(crate) struct Unconfigured {
    tasks: JoinSet<Ended>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    accept_key: mpsc::Receiver<CommandRequest>,
    reload: mpsc::Receiver<CommandRequest>,
    stop: watch::Sender<bool>,
    ready_timeout: Duration,
    _admin_socket: BoundSocket,
}

impl Unconfigured {
    /// Binds what the agent listens on, as far as `provisional` knows it, or uses the socket that systemd passed, and
    /// answers every call with the reason. `passed` stays the caller's: the agent that follows needs all of it, also
    /// the keys that systemd holds.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub(crate) async fn start(
        mut provisional: Provisional,
        passed: &Passed,
        why: &ReloadError,
    ) -> Result<Self, AgentError> {
        let listener = passed.listener.as_ref();
        // The configuration may name the socket of the socket unit only in the part that cannot be read.
        let path =
            listener.and_then(|listener| listener.local_addr().ok()?.as_pathname().map(Path::to_path_buf));
        provisional.server.socket = path.unwrap_or(provisional.server.socket);
        let again = || listener.and_then(|listener| listener.try_clone().ok());
        let listeners = match Listeners::bind(&provisional.server, again()).await {
            // Perhaps the configuration turns the address off, in the part that cannot be read.
            Err(AgentError::Admin { address, cause }) => {
                tracing::warn!("the admin address {address} cannot be bound: {cause}; continuing without it");
                provisional.server.admin = None;
                Listeners::bind(&provisional.server, again()).await?
            }
            bound => bound?,
        };
        let snapshots = watch::Sender::new(Arc::new(snapshot(why)));
        let (stop, stopping) = watch::channel(false);
        let (metrics, heartbeat) = (Metrics::default(), listeners.kms.heartbeat());
        let mut tasks = JoinSet::new();

        let (streams, accepted) = mpsc::channel(MAX_ACCEPTED);
        let serving = serve_unconfigured(
            snapshots.subscribe(),
            Incoming::new(accepted, metrics.clone(), &provisional.server.allowed_uids),
            stopping.clone(),
        );
        tasks.spawn(async {
            serving.await;
            ("kms server", Ok(()))
        });
        let watchdog_path = listeners.watchdog_path.clone();
        for (acceptor, path) in
            [(listeners.kms, listeners.kms_path), (listeners.watchdog, listeners.watchdog_path)]
        {
            let accepting = acceptor.run(path, streams.clone(), metrics.clone(), stopping.clone());
            tasks.spawn(async { ("acceptor", accepting.await.map_err(Into::into)) });
        }
        let watched = heartbeat.clone();
        tasks.spawn(async move {
            watchdog::run(watchdog_path, watched).await;
            ("watchdog", Ok(()))
        });

        let ((accept_key, accept_key_commands), (reload, reload_commands)) =
            (mpsc::channel(1), mpsc::channel(1));
        let rendered = snapshots.subscribe();
        let shown = admin::Snapshots::fixed(move || rendered.borrow().clone());
        let liveness: admin::Liveness = Arc::new(move || heartbeat.alive());
        let commands = AdminCommands { accept_key, reload };
        let names = HostNames::new(&provisional.server.admin_hosts);
        let fingerprints: admin::LocalKekFingerprints = Arc::new(Vec::new);
        let router = admin::router(
            shown.clone(),
            liveness.clone(),
            metrics.clone(),
            commands,
            fingerprints,
            names.clone(),
        );
        let serving = admin::serve_unix(listeners.admin_socket, router, stopping.clone());
        tasks.spawn(async {
            serving.await;
            ("admin socket", Ok(()))
        });
        if let Some(address) = listeners.admin_address {
            let router = admin::public_router(shown, liveness, metrics, names);
            let serving = admin::serve_tcp(address, router, stopping);
            tasks.spawn(async {
                serving.await;
                ("admin address", Ok(()))
            });
        }
        Ok(Self {
            tasks,
            snapshots,
            accept_key: accept_key_commands,
            reload: reload_commands,
            stop,
            ready_timeout: provisional.ready_timeout,
            _admin_socket: listeners.admin_socket_file,
        })
    }

    /// Waits until the configuration loads, and returns the settings; `None` when a signal ended the wait. Then
    /// nothing listens any more.
    ///
    /// # Errors
    /// When SIGHUP cannot be received, or a task ended.
    pub(crate) async fn wait(
        mut self,
        source: &ConfigSource,
        signals: &mut Signals,
    ) -> Result<Option<Settings>, AgentError> {
        let mut hangups = signal(SignalKind::hangup()).map_err(AgentError::Signals)?;
        notify::starting(self.ready_timeout + START_MARGIN);
        notify::status(&self.snapshots.borrow().line());
        let mut ready_at = Some(Instant::now() + self.ready_timeout);
        let mut watches: Vec<DirectoryWatch> =
            source.directories.iter().map(|directory| DirectoryWatch::of_files(directory)).collect();
        // A reload command of an administrator, who waits for the result of the next read.
        let mut command: Option<CommandRequest> = None;
        loop {
            // First the watches: no change after the read is missed.
            for watch in &mut watches {
                watch.arm();
            }
            match source.load().await {
                Ok(settings) => {
                    if let Some(command) = command {
                        let line = "the configuration loads now; the agent starts with it".into();
                        let _gone = command.send(Ok(CommandDone { phase: ApiPhase::Starting, line }));
                        // The answer must leave before the server ends.
                        tokio::time::sleep(CONFIG_SETTLE).await;
                    }
                    return self.end(Some(settings)).await;
                }
                Err(why) => {
                    self.report(&why);
                    if let Some(command) = command.take() {
                        let error = format!("the configuration does not load: {why}");
                        let _gone = command.send(Err(CommandFailed { error }));
                    }
                }
            }
            tokio::select! {
                () = signals.next() => return self.end(None).await,
                // The boot must go on: the kubelet is started after this service.
                () = until(ready_at) => {
                    notify::ready();
                    ready_at = None;
                }
                Some(asked) = self.reload.recv() => command = Some(asked),
                _ = hangups.recv() => {}
                Some(answer) = self.accept_key.recv() => {
                    let error = "there is no key to accept: the configuration does not load".into();
                    let _gone = answer.send(Err(CommandFailed { error }));
                }
                () = changed(&mut watches) => {}
                ended = self.tasks.join_next() => return Err(cause_of(ended)),
            }
        }
    }

    /// Shows and logs why the configuration does not load, when that is something new.
    fn report(&self, why: &ReloadError) {
        let mut new = snapshot(why);
        let before = self.snapshots.borrow().clone();
        if new.reason == before.reason {
            return;
        }
        new.since = before.since;
        notify::status(&new.line());
        self.snapshots.send_replace(Arc::new(new));
        log(why);
    }

    /// Stops listening. Calls that have begun get their answer.
    async fn end(mut self, settings: Option<Settings>) -> Result<Option<Settings>, AgentError> {
        if settings.is_none() {
            notify::stopping(LAST_ANSWERS);
        } else {
            tracing::info!("the configuration loads now; the agent starts with it");
        }
        self.stop.send_replace(true);
        let servers = async { while self.tasks.join_next().await.is_some() {} };
        let _in_time = tokio::time::timeout(LAST_ANSWERS, servers).await.is_ok();
        self.tasks.shutdown().await;
        Ok(settings)
    }
}

/// Completes when a file may have changed.
async fn changed(watches: &mut [DirectoryWatch]) {
    let reported = async {
        match watches.is_empty() {
            true => std::future::pending().await,
            false => {
                let changes = watches.iter_mut().map(|watch| Box::pin(watch.changed()));
                futures_util::future::select_all(changes).await;
            }
        }
        // An editor writes a file in several steps.
        tokio::time::sleep(CONFIG_SETTLE).await;
    };
    // Also beside inotify: files may be links to other directories, and TLS files may be anywhere.
    let _unreported = tokio::time::timeout(CONFIG_INTERVAL, reported).await.is_ok();
}

/// Logs why the configuration does not load, a line for each problem.
pub(crate) fn log(why: &ReloadError) {
    let kind = ReasonKind::Configuration.name();
    for line in why.lines() {
        tracing::error!(KMS_REASON = kind, KMS_REMEDY = REMEDY, "the configuration does not load: {line}");
    }
    tracing::error!(
        KMS_REASON = kind,
        "the agent answers UNAVAILABLE, and reads the configuration again when it changes"
    );
}

/// The state of a process without a configuration.
fn snapshot(why: &ReloadError) -> Snapshot {
    let cause = why.cause();
    let text = format!("the configuration does not load: {cause}");
    let now = BootTime::now();
    Snapshot {
        phase: Phase::Failed,
        since: now,
        reason: Some(Reason { kind: ReasonKind::Configuration, text: text.clone(), remedy: REMEDY.into() }),
        grace_end: None,
        last_contact: None,
        announce: Announce::Unknown,
        key_stale: true,
        verified: false,
        primary: ServiceState {
            name: "primary".into(),
            scope: KeyScope { namespace: String::new(), mount: String::new(), key: String::new() },
            key: None,
            token: None,
            addresses: Vec::new(),
            problem: Some(text.clone()),
            ignored_namespace: None,
            last_contact: None,
            wipe_at: None,
        },
        decrypt_only: Vec::new(),
        local_keks: None,
        config: ConfigState { digest: Arc::default(), problem: Some(cause.into()) },
    }
}
