//! `serve`: the agent, until a signal ends it.

use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use super::exit::{Exit, Failure};
use super::flags::ConfigFlags;
use super::{foreign, runtime};
use crate::config::Settings;
use crate::health::AdminRequest;
use crate::kms::View;
use crate::supervisor::{Agent, AgentError, ReloadRequest, make_runtime_dir};
use crate::systemd::notify;
use crate::{process, telemetry};

pub(super) fn run(flags: &ConfigFlags) -> Result<(), Failure> {
    let mut settings = read(flags)?;
    telemetry::init(&settings.log);
    flags.foreign_warnings().for_each(|warning| tracing::warn!("{warning}"));
    if flags.is_foreign()
        && let Some(closed) = foreign::close_directory(&settings.server.socket)
    {
        tracing::warn!("{closed}");
    }
    make_runtime_dir(&mut settings.server).map_err(failure)?;
    process::harden();
    runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let (wish, wishes) = mpsc::channel(1);
        let agent = Agent::start(&settings, wish).await.map_err(failure)?;
        let admin = agent.admin().map_or_else(String::new, |address| format!(", health on http://{address}"));
        tracing::info!(
            "kms-plugin {} serves on {}{admin}",
            env!("CARGO_PKG_VERSION"),
            settings.server.socket.display(),
        );
        let runtime_dir = settings.server.runtime_dir.clone();
        let reloader = Reloader { flags, runtime_dir, wishes, agent: agent.reloader(), view: agent.view() };
        tokio::select! {
            ended = signals.run(agent) => ended,
            failed = reloader.run() => failed,
        }
    })
}

fn read(flags: &ConfigFlags) -> Result<Settings, Failure> {
    let merged = flags.merge()?;
    Settings::from_merged(&merged).map_err(|error| {
        let failure = Failure::new(Exit::Config, error);
        match flags.missing_file() {
            Some(file) => failure.context(format!(
                "there is no configuration file {}; name one with --config. To try without a Vault: kms-plugin dev",
                file.display()
            )),
            None => failure,
        }
    })
}

/// SIGHUP and `kms-plugin reload` read the configuration, the credentials and the TLS files again. What does
/// not work is told, and the old stays in use.
struct Reloader<'a> {
    flags: &'a ConfigFlags,
    runtime_dir: PathBuf,
    wishes: mpsc::Receiver<AdminRequest>,
    agent: mpsc::Sender<ReloadRequest>,
    view: watch::Receiver<View>,
}

impl Reloader<'_> {
    async fn run(mut self) -> Result<(), Failure> {
        let mut hangups =
            signal(SignalKind::hangup()).map_err(|error| Failure::new(Exit::Internal, error))?;
        loop {
            let wish = tokio::select! {
                _ = hangups.recv() => None,
                Some(wish) = self.wishes.recv() => Some(wish),
            };
            notify::reloading();
            let result = self.reload().await.map_err(|cause| {
                format!("the reload failed, and the old configuration stays in use: {cause}")
            });
            let line = self.view.borrow().snapshot.line();
            match &result {
                Ok(()) => tracing::info!(
                    "the configuration was reloaded; [server] and [log] take effect at a restart"
                ),
                Err(failure) => tracing::error!(KMS_REASON = "reload_failed", "{failure}"),
            }
            notify::ready();
            if let Some(wish) = wish {
                let _gone = wish.send(result.map(|()| line));
            }
        }
    }

    async fn reload(&self) -> Result<(), String> {
        let mut settings = read(self.flags).map_err(|failure| failure.to_string())?;
        // The directory of the sockets that are open: [server] takes effect at a restart.
        settings.server.runtime_dir.clone_from(&self.runtime_dir);
        let (answer, reloaded) = oneshot::channel();
        // When nobody takes it, the answer never comes: the agent is stopping.
        let _taken = self.agent.send((Box::new(settings), answer)).await;
        reloaded.await.unwrap_or_else(|_| Err("the agent is stopping".into()))
    }
}

/// The failure of an agent, with the exit code that says whose it is.
pub(super) fn failure(error: AgentError) -> Failure {
    let exit = match &error {
        AgentError::Tls(_) | AgentError::RuntimeDir { .. } => Exit::Config,
        AgentError::Socket(_) | AgentError::Keyring(_) | AgentError::Admin { .. } => Exit::Unavailable,
        AgentError::Task { .. } | AgentError::Drain(_) | AgentError::Aborted => Exit::Internal,
    };
    Failure::new(exit, error)
}

/// SIGTERM and SIGINT: the first drains, the second aborts.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::new(Exit::Internal, error));
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// Runs the agent until the signals end it.
    pub(super) async fn run(&mut self, agent: Agent) -> Result<(), Failure> {
        let mut second = Self::new()?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let first = async {
            self.next().await;
            let _running = stop.send(());
        };
        // Counts from the first signal on: both listeners see every signal.
        let abort = async {
            let _first = stopped.await;
            second.next().await;
            second.next().await;
        };
        agent.run(first, abort).await.map_err(failure)
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
