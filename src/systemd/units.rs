//! Our units, as `systemctl show` and `systemctl cat` print them.
//!
//! Must not judge what it reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::process::{self, ProcessError};

/// The service.
pub(crate) const SERVICE: &str = "kms-plugin.service";
/// The socket unit of the service.
pub(crate) const SOCKET: &str = "kms-plugin.socket";
/// All our units.
pub(crate) const UNITS: [&str; 4] = [SERVICE, SOCKET, "kms-plugin-rebind.path", "kms-plugin-rebind.service"];
/// The credentials of the running service. Root may read them here.
pub(crate) const CREDENTIALS: &str = "/run/credentials/kms-plugin.service";
/// The properties of a unit that are read (systemctl(1), org.freedesktop.systemd1(5)).
const PROPERTIES: &str = "--property=LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts,User,DynamicUser,\
                          WatchdogUSec,StartLimitIntervalUSec,NeedDaemonReload,StatusText,MainPID,Environment,\
                          EnvironmentFiles,ExecStart,FileDescriptorStoreMax,LimitMEMLOCK";

/// Why nothing is known about the units.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnitsError {
    #[error("systemd does not run here")]
    NoSystemd,
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("systemctl show failed: is systemd reachable from here?")]
    ShowFailed,
}

/// `LoadState=`: whether systemd has read the unit's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LoadState {
    Loaded,
    Masked,
    NotFound,
    /// Its file is wrong, or nothing is known.
    Other(String),
}

/// `ActiveState=`: whether the unit runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActiveState {
    Active,
    /// Starting or reloading.
    Activating,
    Failed,
    /// Inactive, or nothing is known.
    Inactive,
}

/// Our units; the default is that nothing is known.
#[derive(Debug, Default)]
pub(crate) struct Units {
    pub(crate) service: Unit,
    pub(crate) socket: Unit,
    /// The file of each credential that the service gets, by the credential's name.
    credentials: BTreeMap<String, PathBuf>,
}

/// The properties of one unit.
#[derive(Debug, Default)]
pub(crate) struct Unit(BTreeMap<String, String>);

/// Whether systemd is the init of this machine (sd_booted(3)).
pub(crate) fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

impl Units {
    /// Reads our units.
    ///
    /// # Errors
    /// When systemd does not run, or systemctl gives no result.
    pub(crate) async fn read() -> Result<Self, UnitsError> {
        if !systemd_runs() {
            return Err(UnitsError::NoSystemd);
        }
        let (service, socket) = (show(SERVICE).await?, show(SOCKET).await?);
        // From the text: systemctl 252 does not show the property.
        let files = process::run("systemctl", &["cat", SERVICE]).await;
        let credentials = files.map(|files| credentials(&files.stdout)).unwrap_or_default();
        Ok(Self { service, socket, credentials })
    }

    /// Whether systemd knows our service.
    pub(crate) fn is_installed(&self) -> bool {
        matches!(self.service.load_state(), LoadState::Loaded | LoadState::Masked)
    }

    /// Whether the agent should be running by now.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_installed() && (self.service.is_enabled() || self.service.is_active())
    }

    /// The file that the unit passes as this credential (`LoadCredential=`).
    pub(crate) fn credential_source(&self, name: &str) -> Option<&Path> {
        self.credentials.get(name).map(PathBuf::as_path)
    }

    /// Every file that holds a credential of the service: the sources in the unit, and the files of the running
    /// service.
    pub(crate) fn credential_files(&self) -> Vec<PathBuf> {
        let running = std::fs::read_dir(CREDENTIALS).into_iter().flatten().filter_map(Result::ok);
        self.credentials.values().cloned().chain(running.map(|entry| entry.path())).collect()
    }

    /// A service with these properties, as `systemctl show` prints them.
    #[cfg(test)]
    pub(crate) fn of_service(shown: &str) -> Self {
        Self { service: Unit::parse(shown), ..Self::default() }
    }
}

impl Unit {
    /// Reads what `systemctl show` prints.
    fn parse(shown: &str) -> Self {
        let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self(shown.lines().filter_map(pair).collect())
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(crate) fn load_state(&self) -> LoadState {
        match self.get("LoadState") {
            "loaded" => LoadState::Loaded,
            "masked" => LoadState::Masked,
            "not-found" => LoadState::NotFound,
            other => LoadState::Other(other.to_owned()),
        }
    }

    pub(crate) fn active_state(&self) -> ActiveState {
        match self.get("ActiveState") {
            "active" => ActiveState::Active,
            "activating" | "reloading" => ActiveState::Activating,
            "failed" => ActiveState::Failed,
            _ => ActiveState::Inactive,
        }
    }

    /// As `systemctl status` prints it, for people: `active (running)`.
    pub(crate) fn state_text(&self) -> String {
        format!("{} ({})", self.get("ActiveState"), self.get("SubState"))
    }

    pub(crate) fn is_active(&self) -> bool {
        self.active_state() == ActiveState::Active
    }

    /// Whether it starts at a boot.
    pub(crate) fn is_enabled(&self) -> bool {
        matches!(self.enablement(), "enabled" | "enabled-runtime" | "static" | "generated")
    }

    /// `enabled`, `disabled` and such, for people.
    pub(crate) fn enablement(&self) -> &str {
        self.get("UnitFileState")
    }

    /// Why the last run ended, in systemd's word.
    pub(crate) fn result(&self) -> &str {
        self.get("Result")
    }

    /// The line that the service sent with `STATUS=`.
    pub(crate) fn status_text(&self) -> &str {
        self.get("StatusText")
    }

    /// How often systemd restarted it by itself.
    pub(crate) fn restarts(&self) -> u64 {
        self.get("NRestarts").parse().unwrap_or_default()
    }

    /// Whether the watchdog is off (`WatchdogSec=0`).
    pub(crate) fn has_no_watchdog(&self) -> bool {
        matches!(self.get("WatchdogUSec"), "0" | "infinity")
    }

    /// Whether systemd gives up after some failed starts (`StartLimitIntervalSec=`).
    pub(crate) fn has_start_limit(&self) -> bool {
        !matches!(self.get("StartLimitIntervalUSec"), "0" | "")
    }

    /// Whether its files were changed after systemd read them.
    pub(crate) fn needs_daemon_reload(&self) -> bool {
        self.get("NeedDaemonReload") == "yes"
    }

    /// The user of the service; `None` when the unit does not name one.
    pub(crate) fn user(&self) -> Option<&str> {
        Some(self.get("User")).filter(|user| !user.is_empty())
    }

    /// Whether the user exists only while the service runs.
    pub(crate) fn has_dynamic_user(&self) -> bool {
        self.get("DynamicUser") == "yes"
    }

    /// How many file descriptors systemd stores for the service; `None` when the unit does not say.
    pub(crate) fn stored_descriptors(&self) -> Option<u64> {
        self.get("FileDescriptorStoreMax").parse().ok()
    }

    /// How much memory the service may lock, in bytes; `None` when the unit does not say.
    pub(crate) fn lockable_memory(&self) -> Option<u64> {
        match self.get("LimitMEMLOCK") {
            "infinity" => Some(u64::MAX),
            bytes => bytes.parse().ok(),
        }
    }

    /// The names of the environment variables that the unit sets. Not their values: they may be secret.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &str> {
        let words = self.get("Environment").split_whitespace().map(|word| word.trim_start_matches('"'));
        words.filter_map(|word| word.split_once('=')).map(|(name, _)| name)
    }

    /// The file with environment variables that the unit names.
    pub(crate) fn environment_file(&self) -> Option<&str> {
        self.get("EnvironmentFiles").split(" (").next().filter(|file| !file.is_empty())
    }

    /// The names of the flags in the unit's command. Not their values: they may be secret.
    pub(crate) fn flags(&self) -> impl Iterator<Item = &str> {
        let command = self.get("ExecStart").split("argv[]=").nth(1).and_then(|rest| rest.split(" ; ").next());
        let words = command.into_iter().flat_map(|command| command.split_whitespace().skip(1));
        words.filter(|word| word.starts_with('-')).filter_map(|word| word.split('=').next())
    }
}

/// `LoadCredential=NAME:PATH` in the files of a unit (systemd.exec(5)).
fn credentials(files: &str) -> BTreeMap<String, PathBuf> {
    let pair = |line: &str| {
        let (name, path) = line.trim().strip_prefix("LoadCredential=")?.split_once(':')?;
        Some((name.to_owned(), PathBuf::from(path)))
    };
    files.lines().filter_map(pair).collect()
}

async fn show(unit: &str) -> Result<Unit, UnitsError> {
    let shown = process::run("systemctl", &["show", PROPERTIES, unit]).await?;
    if shown.status.success() { Ok(Unit::parse(&shown.stdout)) } else { Err(UnitsError::ShowFailed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_flags_are_named_without_their_values() {
        let shown = "Environment=KMS_PLUGIN_BOOT_ID=1 \"DB_PASSWORD=a b\" PATH=/\n\
                     EnvironmentFiles=/etc/default/kms-plugin (ignore_errors=yes)\n\
                     ExecStart={ path=/usr/bin/kms-plugin ; argv[]=/usr/bin/kms-plugin serve --log-level=debug ; x=y }";
        let unit = Unit::parse(shown);
        assert_eq!(unit.variables().collect::<Vec<_>>(), ["KMS_PLUGIN_BOOT_ID", "DB_PASSWORD", "PATH"]);
        assert_eq!(unit.environment_file(), Some("/etc/default/kms-plugin"));
        assert_eq!(unit.flags().collect::<Vec<_>>(), ["--log-level"]);
        assert_eq!(Unit::default().environment_file(), None);
    }

    #[test]
    fn the_files_of_credentials_are_in_the_units_text() {
        let text = "[Service]\nLoadCredential=secret-id:/etc/secret-id\nLoadCredential=bare\nUser=x\n";
        let units = Units { credentials: credentials(text), ..Units::default() };
        assert_eq!(units.credential_source("secret-id"), Some(Path::new("/etc/secret-id")));
        assert_eq!((units.credential_source("secret"), units.credential_source("bare")), (None, None));
    }

    #[test]
    fn a_unit_that_is_not_known_is_neither_installed_nor_active() {
        let units = Units::default();
        assert!(!units.is_installed() && !units.is_wanted() && !units.service.is_active());
        let enabled = Units::of_service("LoadState=loaded\nActiveState=inactive\nUnitFileState=enabled");
        assert!(enabled.is_wanted() && !enabled.service.is_active());
        assert_eq!(enabled.service.active_state(), ActiveState::Inactive);
    }
}
