//! One unit, as `systemctl show` prints its properties.
//!
//! Must not judge what it reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

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

/// How a main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MainExit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// The properties of one unit. A property that systemd shows on several lines has them all.
#[derive(Debug, Default)]
pub(crate) struct Unit(BTreeMap<String, String>);

impl Unit {
    /// Reads what `systemctl show` prints.
    pub(super) fn parse(shown: &str) -> Self {
        let mut properties: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in shown.lines().filter_map(|line| line.split_once('=')) {
            let known = properties.entry(name.to_owned()).or_default();
            // Each command of `ExecStartPre=` has a line.
            if !known.is_empty() {
                known.push('\n');
            }
            known.push_str(value);
        }
        Self(properties)
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

    /// How often systemd restarted it by itself, since somebody started it.
    pub(crate) fn restarts(&self) -> u64 {
        self.get("NRestarts").parse().unwrap_or_default()
    }

    /// Whether the service has ended, and systemd waits before it starts it again.
    pub(crate) fn waits_for_restart(&self) -> bool {
        self.get("SubState").starts_with("auto-restart")
    }

    /// Since when it has been active, on the monotonic clock.
    pub(crate) fn active_since(&self) -> Option<Duration> {
        let since = self.get("ActiveEnterTimestampMonotonic").parse().ok().filter(|since| *since > 0);
        since.map(Duration::from_micros)
    }

    /// How the main process ended last; `None` while it runs, or when it was never started.
    pub(crate) fn main_exit(&self) -> Option<MainExit> {
        let status = self.get("ExecMainStatus").parse().ok()?;
        // The values of `si_code` (waitid(2)).
        match self.get("ExecMainCode") {
            "1" => Some(MainExit::Code(status)),
            "2" | "3" => Some(MainExit::Signal(status)),
            _ => None,
        }
    }

    /// The command of `ExecStartPre=` that failed.
    pub(crate) fn failed_start_command(&self) -> Option<&str> {
        let failed = |line: &&str| {
            let status = line.split("status=").nth(1).unwrap_or_default();
            line.contains("code=killed") || line.contains("code=exited") && !status.starts_with('0')
        };
        let line = self.get("ExecStartPre").lines().find(failed)?;
        line.split("argv[]=").nth(1)?.split(" ; ").next()
    }

    /// The id of its last start.
    pub(crate) fn invocation(&self) -> Option<&str> {
        Some(self.get("InvocationID"))
            .filter(|id| !id.is_empty() && id.chars().all(|c| c.is_ascii_hexdigit()))
    }

    /// Whether the watchdog is off (`WatchdogSec=0`). systemd shows the setting only of a service that runs.
    pub(crate) fn has_no_watchdog(&self) -> bool {
        self.is_active() && matches!(self.get("WatchdogUSec"), "0" | "infinity")
    }

    /// Whether this setting is on (`yes`).
    pub(crate) fn is_on(&self, setting: &str) -> bool {
        self.get(setting) == "yes"
    }

    /// The value of a setting, in the form of `systemctl show`; `None` when systemd does not show it, or it is empty.
    pub(crate) fn setting(&self, name: &str) -> Option<&str> {
        Some(self.get(name)).filter(|value| !value.is_empty())
    }

    /// Whether systemd shows a setting, also as empty.
    pub(crate) fn shows(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A limit as a number; `None` when there is none, or it is not known.
    pub(crate) fn limit(&self, name: &str) -> Option<u64> {
        self.get(name).parse().ok()
    }

    /// The process that runs now.
    pub(crate) fn main_pid(&self) -> Option<u32> {
        self.get("MainPID").parse().ok().filter(|pid| *pid > 0)
    }

    /// The path of the socket that the unit listens on (`ListenStream=`).
    pub(crate) fn listens_on(&self) -> Option<&Path> {
        self.get("Listen").split(" (").next().filter(|path| path.starts_with('/')).map(Path::new)
    }

    /// The directories that the service cannot see, or sees empty (systemd.exec(5): `ProtectHome=`, `PrivateTmp=`,
    /// `InaccessiblePaths=`, `TemporaryFileSystem=`).
    pub(crate) fn hidden_directories(&self) -> Vec<PathBuf> {
        let homes: &[&str] = match self.get("ProtectHome") {
            "yes" | "tmpfs" => &["/home", "/root", "/run/user"],
            _ => &[],
        };
        let temporary: &[&str] = match self.get("PrivateTmp") {
            "" | "no" => &[],
            _ => &["/tmp", "/var/tmp"],
        };
        let listed = [self.get("InaccessiblePaths"), self.get("TemporaryFileSystem")];
        let listed = listed.iter().flat_map(|paths| paths.split_whitespace());
        // A prefix `-` ignores a path that is missing; options follow a colon.
        let listed = listed.filter_map(|path| path.trim_start_matches(['-', '+']).split(':').next());
        homes.iter().chain(temporary).copied().chain(listed).map(PathBuf::from).collect()
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

    /// The names of the groups that the unit adds to the user's own.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &str> {
        self.get("Group").split_whitespace().chain(self.get("SupplementaryGroups").split_whitespace())
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
        let words = self.arguments().skip(1).filter(|word| word.starts_with('-'));
        words.filter_map(|word| word.split('=').next())
    }

    /// The path that the unit's command gives to this flag.
    pub(crate) fn path_after(&self, flag: &str) -> Option<&Path> {
        let mut words = self.arguments();
        let word = words.find(|word| word.split('=').next() == Some(flag))?;
        word.split_once('=').map(|(_, path)| path).or_else(|| words.next()).map(Path::new)
    }

    fn arguments(&self) -> impl Iterator<Item = &str> {
        let command = self.get("ExecStart").split("argv[]=").nth(1).and_then(|rest| rest.split(" ; ").next());
        command.into_iter().flat_map(str::split_whitespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What systemd 257 showed of a service whose program is missing, and of one whose `ExecStartPre=` fails.
    const LOOPING: &str = "Result=exit-code\nNRestarts=1\nExecMainCode=1\nExecMainStatus=203\n\
        ExecStart={ path=/usr/local/bin/none ; argv[]=/usr/local/bin/none serve --config /etc/other.toml ; ignore_errors=no ; start_time=[Thu 2026-11-26 07:59:53 UTC] ; stop_time=[Thu 2026-11-26 07:59:53 UTC] ; pid=284 ; code=exited ; status=203 }\n\
        LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nUnitFileState=enabled";
    const FAILED_BEFORE: &str = "Result=exit-code\nNRestarts=2\nExecMainCode=0\nExecMainStatus=0\n\
        ExecStartPre={ path=/bin/true ; argv[]=/bin/true ; ignore_errors=no ; pid=718 ; code=exited ; status=0 }\n\
        ExecStartPre={ path=/bin/false ; argv[]=/bin/false ; ignore_errors=no ; pid=721 ; code=exited ; status=1 }\n\
        LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nUnitFileState=enabled";

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
    fn a_service_that_loops_is_recognised_by_the_words_of_a_real_systemd() {
        // systemd 257, with ExecStart=/usr/local/bin/none serve --config /etc/other.toml.
        let unit = Unit::parse(LOOPING);
        assert!(unit.waits_for_restart());
        assert_eq!(unit.main_exit(), Some(MainExit::Code(203)));
        assert_eq!(unit.path_after("--config"), Some(Path::new("/etc/other.toml")));
        // The same with ExecStartPre=/bin/false: the main process never ran.
        let unit = Unit::parse(FAILED_BEFORE);
        assert_eq!((unit.main_exit(), unit.failed_start_command()), (None, Some("/bin/false")));
        assert_eq!(Unit::default().main_exit(), None);
    }

    #[test]
    fn hidden_directories_follow_the_settings() {
        let unit = Unit::parse(
            "ProtectHome=yes\nPrivateTmp=yes\nInaccessiblePaths=-/srv /mnt\nTemporaryFileSystem=/var:ro",
        );
        let hidden: Vec<_> =
            unit.hidden_directories().iter().map(|path| path.display().to_string()).collect();
        assert_eq!(hidden, ["/home", "/root", "/run/user", "/tmp", "/var/tmp", "/srv", "/mnt", "/var"]);
        assert!(Unit::parse("ProtectHome=read-only\nPrivateTmp=no").hidden_directories().is_empty());
    }
}
