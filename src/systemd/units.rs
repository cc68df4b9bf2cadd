//! Our units, as `systemctl show` and `systemctl cat` print them.
//!
//! Must not judge what it reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::unit::{LoadState, Unit};
use crate::process::{self, ProcessError};

/// The service.
pub(crate) const SERVICE: &str = "kms-plugin.service";
/// The socket unit of the service.
pub(crate) const SOCKET: &str = "kms-plugin.socket";
/// The unit that watches over the socket's file, and makes it again.
pub(crate) const REBIND: &str = "kms-plugin-rebind.path";
/// All our units.
pub(crate) const UNITS: [&str; 4] = [SERVICE, SOCKET, REBIND, "kms-plugin-rebind.service"];
/// The credentials of the running service. Root may read them here.
pub(crate) const CREDENTIALS: &str = "/run/credentials/kms-plugin.service";
/// The properties of a unit that are read (systemctl(1), org.freedesktop.systemd1(5)).
const PROPERTIES: &str = "--property=LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts,User,Group,\
                          SupplementaryGroups,DynamicUser,WatchdogUSec,StartLimitIntervalUSec,NeedDaemonReload,StatusText,MainPID,Environment,\
                          EnvironmentFiles,ExecStart,ExecStartPre,ExecMainCode,ExecMainStatus,\
                          ActiveEnterTimestampMonotonic,InvocationID,Type,Restart,RuntimeDirectory,RuntimeMaxUSec,\
                          FileDescriptorStoreMax,LimitMEMLOCK,LimitNOFILE,LimitNPROC,LimitAS,TasksMax,MemoryMax,\
                          PrivateNetwork,PrivateTmp,ProtectHome,RestrictAddressFamilies,IPAddressDeny,\
                          IPAddressAllow,InaccessiblePaths,TemporaryFileSystem,Listen";

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

/// Our units; the default is that nothing is known.
#[derive(Debug, Default)]
pub(crate) struct Units {
    pub(crate) service: Unit,
    pub(crate) socket: Unit,
    /// [`REBIND`].
    pub(crate) rebind: Unit,
    /// The file of each credential that the service gets, by the credential's name.
    credentials: BTreeMap<String, PathBuf>,
    /// The text of the service's files, as `systemctl cat` prints them.
    text: String,
}

/// The time on the clock of systemd's monotonic timestamps (CLOCK_MONOTONIC, systemctl(1)).
pub(crate) fn monotonic_now() -> Duration {
    let clock = nix::time::ClockId::CLOCK_MONOTONIC;
    nix::time::clock_gettime(clock).map(Duration::from).unwrap_or_default()
}

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
        let shown = process::run("systemctl", &["show", PROPERTIES, SERVICE, SOCKET, REBIND]).await?;
        if !shown.status.success() {
            return Err(UnitsError::ShowFailed);
        }
        let text = process::run("systemctl", &["cat", SERVICE]).await.map(|files| files.stdout);
        Ok(Self::of(&shown.stdout, text.unwrap_or_default()))
    }

    /// `shown` has the properties of the service, the socket and [`REBIND`], with an empty line between them. `text`
    /// has the files of the service.
    fn of(shown: &str, text: String) -> Self {
        let mut units = shown.split("\n\n").map(Unit::parse);
        let mut next = || units.next().unwrap_or_default();
        // From the text: systemctl 252 does not show the property.
        Self { service: next(), socket: next(), rebind: next(), credentials: credentials(&text), text }
    }

    /// Whether systemd knows our service.
    pub(crate) fn is_installed(&self) -> bool {
        matches!(self.service.load_state(), LoadState::Loaded | LoadState::Masked)
    }

    /// Whether the agent should be running by now.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_installed() && (self.service.is_enabled() || self.service.is_active())
    }

    /// The last assignment of a setting in the service's files: the value, and the file, which is the unit's or that of
    /// a drop-in.
    pub(crate) fn written(&self, setting: &str) -> Option<(&str, &Path)> {
        let (mut file, mut found) = (None, None);
        for line in self.text.lines() {
            // `systemctl cat` writes the path of each file above it.
            let path = line.strip_prefix("# ").filter(|path| path.starts_with('/') && !path.contains(' '));
            if let Some(path) = path.filter(|path| path.ends_with(".conf") || path.ends_with(SERVICE)) {
                file = Some(Path::new(path));
            } else if let Some((name, value)) = line.split_once('=')
                && name.trim() == setting
            {
                found = file.map(|file| (value.trim(), file));
            }
        }
        found
    }

    /// The file that the unit passes as this credential (`LoadCredential=`).
    pub(crate) fn credential_source(&self, name: &str) -> Option<&Path> {
        self.credentials.get(name).map(PathBuf::as_path)
    }

    /// The credentials that the unit passes: the name and the file of each.
    pub(crate) fn credential_sources(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.credentials.iter().map(|(name, path)| (name.as_str(), path.as_path()))
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
        Self::of(shown, String::new())
    }

    /// The same, with the text of its files.
    #[cfg(test)]
    pub(crate) fn with_text(shown: &str, text: &str) -> Self {
        Self::of(shown, text.to_owned())
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

#[cfg(test)]
mod tests {
    use super::super::unit::ActiveState;
    use super::*;

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

    #[test]
    fn each_unit_has_its_block_and_each_setting_its_file() {
        let units = Units::with_text(
            "LoadState=loaded\nUser=kms-plugin\n\nListen=/run/kmsplugin/kms.sock (Stream)\n\nActiveState=inactive\n",
            "# /usr/lib/systemd/system/kms-plugin.service\n# A comment with PrivateNetwork=yes.\n[Service]\nLimitNOFILE=65536\n\n\
             # /etc/systemd/system/kms-plugin.service.d/a.conf\n[Service]\nLimitNOFILE=16\nPrivateNetwork=yes\n",
        );
        assert_eq!(units.service.user(), Some("kms-plugin"));
        assert_eq!(units.socket.listens_on(), Some(Path::new("/run/kmsplugin/kms.sock")));
        assert_eq!(units.rebind.active_state(), ActiveState::Inactive);
        let dropin = Path::new("/etc/systemd/system/kms-plugin.service.d/a.conf");
        assert_eq!(units.written("LimitNOFILE"), Some(("16", dropin)));
        assert_eq!(units.written("PrivateNetwork"), Some(("yes", dropin)));
        assert_eq!(units.written("MemoryMax"), None);
    }
}
