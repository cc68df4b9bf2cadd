//! `serve`: the agent, until a signal ends it.

use tokio::sync::mpsc;

use super::exit::{Exit, Failure};
use super::flags::ConfigFlags;
use super::runtime;
use crate::agent::{Agent, AgentError, Reloader, Signals, make_runtime_dir};
use crate::compat;
use crate::config::Settings;
use crate::{process, telemetry};

pub(super) fn run(flags: &ConfigFlags) -> Result<(), Failure> {
    let mut settings = read(flags)?;
    telemetry::init(&settings.log);
    flags.compat_warnings().for_each(|warning| tracing::warn!("{warning}"));
    if flags.has_compat()
        && let Some(closed) = compat::protect_directory(&settings.server.socket)
    {
        tracing::warn!("{closed}");
    }
    make_runtime_dir(&mut settings.server).map_err(failure)?;
    process::harden();
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::new().map_err(failure)?;
        let (reload, reload_commands) = mpsc::channel(1);
        let agent = Agent::start(&settings, reload).await.map_err(failure)?;
        let admin = agent.admin().map_or_else(String::new, |address| format!(", health on http://{address}"));
        tracing::info!(
            "kms-plugin {} serves on {}{admin}",
            env!("CARGO_PKG_VERSION"),
            settings.server.socket.display(),
        );
        let flags = flags.clone();
        let read = Box::new(move || read(&flags).map_err(|failure| failure.into_error().into()));
        let reloader = Reloader::new(&agent, read, reload_commands).map_err(failure)?;
        tokio::select! {
            ended = signals.run(agent) => ended.map_err(failure),
            never = reloader.run() => match never {},
        }
    });
    // A thread that waits for a hung file system must not delay the end.
    runtime.shutdown_background();
    ended
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

/// The failure of an agent, with the exit code of its cause.
pub(super) fn failure(error: AgentError) -> Failure {
    let exit = match &error {
        AgentError::Tls(_) | AgentError::RuntimeDir { .. } => Exit::Config,
        AgentError::Socket(_) | AgentError::Keyring(_) | AgentError::Admin { .. } => Exit::Unavailable,
        AgentError::Task { .. } | AgentError::Signals(_) | AgentError::Drain(_) | AgentError::Aborted => {
            Exit::Internal
        }
    };
    Failure::new(exit, error)
}
