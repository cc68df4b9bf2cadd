//! `serve`: the agent, until a signal ends it.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::block_on;
use super::exit::{Exit, Failure};
use super::flags::ConfigFlags;
use crate::agent::{
    Agent, AgentError, ConfigSource, ReloadError, Reloader, Signals, Unconfigured, log_unloadable,
    make_runtime_dir, passed, stop_in_time,
};
use crate::compat::{self, CompatFlags};
use crate::config::{Problem, Settings, schema};
use crate::systemd::activation::Passed;
use crate::systemd::notify;
use crate::{fips, process, telemetry};

/// Serve KMS v2 on the socket (the default command)
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ServeArgs {
    /// Exit with code 78 when the configuration does not load, also under systemd. Without it, a service of systemd
    /// (Type=notify) stays up, answers calls with the reason, and serves when the files are correct
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    flags: ConfigFlags,
}

pub(super) fn run(args: ServeArgs, compat: CompatFlags) -> Result<(), Failure> {
    // Without systemd, the exit code and the last lines are what others see: a container runtime shows them, and
    // starts the container again.
    let waits = notify::is_expected() && !args.once;
    let flags = args.flags.with_compat(compat);
    let settings = read(&flags);
    let log = match &settings {
        Ok(settings) => settings.log,
        Err(_) => flags.provisional().log,
    };
    let settings = match settings {
        Err(failure) if !waits => {
            if telemetry::stderr_is_the_journal() {
                // In the journal, lines on stderr have priority info.
                telemetry::init(&log);
            }
            return Err(failure);
        }
        settings => settings,
    };
    let level = telemetry::init(&log);
    flags.compat_warnings().for_each(|warning| tracing::warn!("{warning}"));
    // It is hardened already. Now there is a log for a warning.
    process::harden();
    process::raise_file_limit();
    block_on(async {
        let mut signals = Signals::new().map_err(failure)?;
        let drain_timeout = settings.as_ref().map(|settings| settings.server.drain_timeout);
        let drain_timeout = drain_timeout.unwrap_or_else(|_| flags.provisional().server.drain_timeout);
        stop_in_time(drain_timeout).map_err(failure)?;
        let socket = settings.as_ref().map(|settings| settings.server.socket.clone());
        let socket = socket.unwrap_or_else(|_| flags.provisional().server.socket);
        let passed = passed(&socket).map_err(failure)?;
        let source = source(&flags);
        let settings = match waits {
            true => match loaded(settings, &source, &flags, &passed, &mut signals).await? {
                Some(settings) => settings,
                None => return Ok(()),
            },
            false => settings?,
        };
        level.set(settings.log.level);
        serve(settings, passed, source, &flags, signals).await
    })?
}

/// The settings, as soon as they can be used; `None` when a signal ended the wait for them. `first` is the result of
/// the first read.
async fn loaded(
    first: Result<Settings, Failure>,
    source: &ConfigSource,
    flags: &ConfigFlags,
    passed: &Passed,
    signals: &mut Signals,
) -> Result<Option<Settings>, Failure> {
    let why = match first {
        Ok(settings) => match source.check(&settings).await {
            Ok(()) => return Ok(Some(settings)),
            Err(why) => why,
        },
        Err(failure) => ReloadError::Configuration(failure.into_error().into()),
    };
    log_unloadable(&why);
    let mut provisional = flags.provisional();
    make_runtime_dir(&mut provisional.server).map_err(failure)?;
    let unconfigured = Unconfigured::start(provisional, passed, &why).await.map_err(failure)?;
    unconfigured.wait(source, signals).await.map_err(failure)
}

/// Serves until a signal ends it.
async fn serve(
    mut settings: Settings,
    passed: Passed,
    source: ConfigSource,
    flags: &ConfigFlags,
    mut signals: Signals,
) -> Result<(), Failure> {
    if flags.has_compat()
        && let Some(closed) = compat::protect_directory(&settings.server.socket)
    {
        tracing::warn!("{closed}");
    }
    make_runtime_dir(&mut settings.server).map_err(failure)?;
    let (reload, reload_commands) = mpsc::channel(1);
    let agent = Agent::start(&settings, passed, reload).await.map_err(failure)?;
    let admin = agent.admin().map_or_else(String::new, |address| format!(", health on http://{address}"));
    tracing::info!("kms-plugin {} serves on {}{admin}", fips::version(), settings.server.socket.display());
    let reloader = Reloader::new(&agent, source.read, reload_commands).map_err(failure)?;
    tokio::select! {
        ended = signals.run(agent) => ended.map_err(failure),
        never = reloader.run() => match never {},
    }
}

/// Where the settings come from: the command line, the variables, and the files.
fn source(flags: &ConfigFlags) -> ConfigSource {
    let file = flags.file();
    let directory = file.parent().map(Path::to_path_buf).unwrap_or_default();
    let flags = flags.clone();
    let read = move || read(&flags).map_err(|failure| failure.into_error().into());
    ConfigSource::new(Arc::new(read), vec![directory.join("config.d"), directory])
}

fn read(flags: &ConfigFlags) -> Result<Settings, Failure> {
    let merged = flags.merge()?;
    Settings::from_merged(&merged).map_err(|mut error| {
        let Some(file) = flags.missing_file() else { return Failure::new(Exit::Config, error) };
        // A bad value comes first: a person who gave it wants to know, and may need no file.
        let is_missing = |problem: &Problem| schema::find(&problem.place).is_some();
        if error.problems.iter().all(is_missing) {
            return Failure::new(Exit::Config, error).context(format!(
                "there is no configuration file {}; name one with --config. To try without a Vault: kms-plugin dev",
                file.display()
            ));
        }
        error.problems.sort_by_key(is_missing);
        let note = "there is no such configuration file; name one with --config";
        error.problems.push(Problem::new(file.display().to_string(), note));
        Failure::new(Exit::Config, error)
    })
}

/// The failure of an agent, with the exit code of its cause.
pub(super) fn failure(error: AgentError) -> Failure {
    let exit = match &error {
        AgentError::Tls(_) | AgentError::RuntimeDir { .. } | AgentError::Files(_) => Exit::Config,
        AgentError::Socket(_) | AgentError::Keyring(_) | AgentError::Admin { .. } => Exit::Unavailable,
        AgentError::Task { .. } | AgentError::Signals(_) | AgentError::Drain(_) | AgentError::Aborted => {
            Exit::Internal
        }
    };
    Failure::new(exit, error)
}
