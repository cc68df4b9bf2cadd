//! Sets up the log once, at the start: its target, its level, its fields.

use std::os::unix::fs::MetadataExt as _;

use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogTarget {
    /// The journal when stderr is connected to it, else stderr.
    Auto,
    Journal,
    Stderr,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Log {
    /// The most detailed level that is logged.
    pub level: tracing::Level,
    pub target: LogTarget,
}

/// Changes the level of the log.
pub(crate) struct LogLevel(reload::Handle<Targets, Registry>);

impl LogLevel {
    /// Uses another level from now on.
    pub(crate) fn set(&self, level: tracing::Level) {
        // Fails only when the log is gone.
        let _set = self.0.reload(filter(level));
    }
}

/// Libraries log the data that they transport at levels below `warn`, so only our own lines go below it.
fn filter(level: tracing::Level) -> Targets {
    let level = LevelFilter::from_level(level);
    Targets::new().with_target("kms_plugin", level).with_default(level.min(LevelFilter::WARN))
}

/// Sets up the log of the process. A second call has no effect.
pub(crate) fn init(log: &Log) -> LogLevel {
    let (filter, handle) = reload::Layer::new(filter(log.level));
    let level = LogLevel(handle);
    let journal = match log.target {
        LogTarget::Journal => true,
        LogTarget::Stderr => false,
        LogTarget::Auto => stderr_is_the_journal(),
    };
    let mut problem = None;
    if journal {
        match tracing_journald::layer() {
            Ok(layer) => {
                to_journal(layer, filter);
                return level;
            }
            Err(error) => problem = Some(error),
        }
    }
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
    let layer =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi).with_target(false);
    let _second = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    if let Some(error) = problem {
        tracing::warn!("cannot write to the journal ({error}); logging to stderr instead");
    }
    level
}

fn to_journal(layer: tracing_journald::Layer, filter: reload::Layer<Targets, Registry>) {
    let layer = layer
        .with_syslog_identifier("kms-plugin".into())
        // Our fields already have the prefix KMS_.
        .with_field_prefix(None)
        .with_priority_mappings(PriorityMappings {
            error: Priority::Error,
            warn: Priority::Warning,
            info: Priority::Informational,
            debug: Priority::Debug,
            trace: Priority::Debug,
        });
    let _second = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
}

/// Compares `$JOURNAL_STREAM` with stderr, as systemd.exec(5) recommends: a child process inherits the variable also
/// when its stderr is another file.
pub(crate) fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.dev(), stderr.ino())
}
