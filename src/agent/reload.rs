//! SIGHUP and `kms-plugin reload`: reads the configuration, the credentials and the TLS files again. When the new
//! settings do not work, reports why, and the old settings stay in use.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use super::error::{AgentError, ReloadError};
use crate::admin::CommandRequest;
use crate::admin::api_types::{CommandDone, CommandFailed};
use crate::config::Settings;
use crate::display::fit;
use crate::files::FileAccess;
use crate::health::Snapshot;
use crate::kms::View;
use crate::systemd::notify;

/// Longest message about a failed reload, in characters. A field of the log has the whole text.
const MAX_MESSAGE: usize = 240;

/// A request to use new settings. Answered when they are in use, or with the reason why they are not.
pub(crate) type ReloadRequest = (Box<Settings>, oneshot::Sender<Result<(), ReloadError>>);

/// Reads the settings again. Only the command line knows where they come from.
pub(crate) type ReadSettings =
    Arc<dyn Fn() -> Result<Settings, Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

/// Waits for SIGHUP and for reload commands, and passes new settings to the agent.
pub(crate) struct Reloader {
    hangups: Signal,
    read: ReadSettings,
    /// One read at a time: if the file system hangs, further ones must start no further thread.
    access: FileAccess,
    runtime_dir: PathBuf,
    commands: mpsc::Receiver<CommandRequest>,
    agent: mpsc::Sender<ReloadRequest>,
    views: Arc<watch::Sender<View>>,
}

impl Reloader {
    /// A reloader of `agent`, for commands that the admin API sends through `commands`.
    ///
    /// # Errors
    /// When SIGHUP cannot be received.
    pub(crate) fn new(
        agent: &super::Agent,
        read: ReadSettings,
        commands: mpsc::Receiver<CommandRequest>,
    ) -> Result<Self, AgentError> {
        Ok(Self {
            hangups: signal(SignalKind::hangup()).map_err(AgentError::Signals)?,
            read,
            access: FileAccess::default(),
            runtime_dir: agent.runtime_dir().to_path_buf(),
            commands,
            agent: agent.reload_sender(),
            views: agent.views(),
        })
    }

    /// Handles SIGHUP and reload commands for ever.
    pub(crate) async fn run(mut self) -> std::convert::Infallible {
        loop {
            let command = tokio::select! {
                _ = self.hangups.recv() => None,
                Some(command) = self.commands.recv() => Some(command),
            };
            notify::reloading();
            let result = self.reload().await;
            match &result {
                Ok(()) => tracing::info!(
                    "the configuration was reloaded; changes of [server] and [log] need a restart"
                ),
                Err(error) => tracing::error!(
                    KMS_REASON = "reload_failed",
                    KMS_CAUSE = error.as_str(),
                    "{}",
                    fit(error, MAX_MESSAGE)
                ),
            }
            notify::ready();
            if let Some(command) = command {
                let answer = match result {
                    Ok(()) => Ok(done(&self.views.borrow())),
                    Err(error) => Err(CommandFailed { error }),
                };
                let _gone = command.send(answer);
            }
        }
    }

    /// Reads the settings and passes them to the agent. When that fails, notes that the agent does not use what is on
    /// disk, and returns the text for the administrator.
    async fn reload(&self) -> Result<(), String> {
        let read = self.read.clone();
        let read = self.access.run(move || read()).await.unwrap_or_else(|hung| Err(hung.into()));
        let (digest, result) = match read {
            Err(error) => (None, Err(ReloadError::Configuration(error))),
            Ok(settings) => (Some(settings.digest.clone()), self.apply(settings).await),
        };
        result.map_err(|cause| {
            self.note(digest, &cause);
            format!("the reload failed, and the old configuration stays in use: {cause}")
        })
    }

    async fn apply(&self, mut settings: Settings) -> Result<(), ReloadError> {
        // The open sockets stay in their directory: a change of [server] needs a restart.
        settings.server.runtime_dir.clone_from(&self.runtime_dir);
        let (answer, reloaded) = oneshot::channel();
        // When the agent is stopping, it does not receive the request, and no answer comes.
        let _taken = self.agent.send((Box::new(settings), answer)).await;
        reloaded.await.unwrap_or(Err(ReloadError::Stopping))
    }

    /// Shows in the state that the configuration on disk is not in use. When only the reload failed, as in an outage,
    /// and the files are those that the agent has read, there is nothing to show.
    fn note(&self, digest: Option<String>, cause: &ReloadError) {
        self.views.send_modify(|view| {
            let same = digest.is_some_and(|digest| *digest == *view.snapshot.config.digest);
            let mut snapshot = Snapshot::clone(&view.snapshot);
            snapshot.config.problem = (!same).then(|| cause.cause().into());
            view.snapshot = Arc::new(snapshot);
        });
    }
}

/// The state after a command.
pub(super) fn done(view: &View) -> CommandDone {
    CommandDone { phase: view.snapshot.phase.into(), line: view.snapshot.line() }
}
