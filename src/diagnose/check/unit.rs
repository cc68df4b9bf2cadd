//! The units, as systemd shows them: enabled, active, the watchdog, the start limit, and whose they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::finding::{Check, Finding};
use super::report::Report;
use crate::cli::external;

/// The service's name: the one that operators type.
const SERVICE: &str = "kms-plugin.service";
/// The socket's.
const SOCKET: &str = "kms-plugin.socket";
/// Starts by themselves from which on something is wrong with the service.
const MANY_RESTARTS: u64 = 5;
/// What is asked of a unit (systemctl(1), org.freedesktop.systemd1(5)).
const PROPERTIES: &str = "--property=LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts,User,DynamicUser,\
                          WatchdogUSec,StartLimitIntervalUSec,NeedDaemonReload,StatusText,MainPID,Environment,\
                          EnvironmentFiles,ExecStart,FileDescriptorStoreMax,LimitMEMLOCK";
/// Why a service that does not run matters.
const DEAD: &str =
    "without the agent, the API server can neither read nor write Secrets that it does not have in memory";
/// Where systemd shows root the credentials of the running service.
pub(crate) const PASSED: &str = "/run/credentials/kms-plugin.service";
/// Variables that are configuration: ours, and those of the plugins whose flags are accepted.
const PREFIXES: [&str; 3] = ["KMS_PLUGIN_", "VAULT_KMS_", "VAULT_KUBE_KMS_"];
/// What our unit sets by itself.
const OWN_VARIABLE: &str = "KMS_PLUGIN_BOOT_ID=";

/// The properties of both units; empty where systemd does not run, or knows no such unit.
#[derive(Debug, Default)]
pub(crate) struct Units {
    service: BTreeMap<String, String>,
    socket: BTreeMap<String, String>,
    /// The files of the credentials that the service is passed. As text: systemctl 252 cannot show the property.
    credentials: BTreeMap<String, String>,
    /// Why nothing is known.
    unknown: Option<String>,
}

impl Units {
    pub(crate) async fn read() -> Self {
        if !external::systemd_runs() {
            return Self { unknown: Some("systemd does not run here".into()), ..Self::default() };
        }
        let (service, socket) = match (show(SERVICE).await, show(SOCKET).await) {
            (Ok(service), Ok(socket)) => (service, socket),
            (Err(why), _) | (_, Err(why)) => return Self { unknown: Some(why), ..Self::default() },
        };
        let files = external::run("systemctl", &["cat", SERVICE]).await;
        let credentials = files.map(|files| passed(&files.text)).unwrap_or_default();
        Self { service, socket, credentials, unknown: None }
    }

    fn get<'a>(properties: &'a BTreeMap<String, String>, name: &str) -> &'a str {
        properties.get(name).map_or("", String::as_str)
    }

    /// Whether systemd knows our service.
    pub(crate) fn is_installed(&self) -> bool {
        matches!(Self::get(&self.service, "LoadState"), "loaded" | "masked")
    }

    pub(crate) fn is_active(&self) -> bool {
        Self::get(&self.service, "ActiveState") == "active"
    }

    /// The user that the service runs as; `None` when no unit says so.
    pub(crate) fn user(&self) -> Option<&str> {
        Some(Self::get(&self.service, "User")).filter(|user| !user.is_empty())
    }

    /// A service with these properties, as `systemctl show` writes them.
    #[cfg(test)]
    pub fn of_service(shown: &str) -> Self {
        Self { service: properties(shown), ..Self::default() }
    }

    /// How many descriptors systemd keeps for the service; `None` when no unit says so.
    pub(crate) fn kept_descriptors(&self) -> Option<u64> {
        Self::get(&self.service, "FileDescriptorStoreMax").parse().ok()
    }

    /// How many bytes of memory the service may keep out of the swap; `None` when no unit says so.
    pub(crate) fn lockable_memory(&self) -> Option<u64> {
        match Self::get(&self.service, "LimitMEMLOCK") {
            "infinity" => Some(u64::MAX),
            bytes => bytes.parse().ok(),
        }
    }

    /// Whether that user exists only while the service runs.
    pub(crate) fn has_dynamic_user(&self) -> bool {
        Self::get(&self.service, "DynamicUser") == "yes"
    }

    /// The file that the unit passes as this credential.
    pub(crate) fn credential_source(&self, name: &str) -> Option<&str> {
        self.credentials.get(name).map(String::as_str)
    }

    /// Every file that holds a credential of the service: those that its unit names, and those of the running one.
    pub(crate) fn passed_credentials(&self) -> Vec<PathBuf> {
        let running = std::fs::read_dir(PASSED).into_iter().flatten().filter_map(Result::ok);
        let named = self.credentials.values().map(PathBuf::from);
        named.chain(running.map(|entry| entry.path())).collect()
    }

    /// What the unit sets that a command in a shell does not see.
    pub(crate) fn own_settings(&self) -> Vec<String> {
        let variables = Self::get(&self.service, "Environment")
            .split_whitespace()
            .map(|word| word.trim_start_matches('"'))
            .filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)))
            .filter(|word| !word.starts_with(OWN_VARIABLE))
            .filter_map(|word| word.split('=').next());
        let files = Self::get(&self.service, "EnvironmentFiles");
        let files = files.split(" (").next().filter(|file| Path::new(file).exists());
        let command = Self::get(&self.service, "ExecStart");
        let command = command.split("argv[]=").nth(1).and_then(|rest| rest.split(" ; ").next());
        let flags = command.into_iter().flat_map(|command| command.split_whitespace().skip(1));
        let flags = flags.filter(|word| word.starts_with('-')).filter_map(|word| word.split('=').next());
        variables.chain(files).chain(flags).map(str::to_owned).collect()
    }

    /// `agent` is whether one answers, however it was started.
    pub(crate) fn judge(&self, agent: bool, report: &mut Report) {
        if let Some(why) = &self.unknown {
            report.add(Finding::skipped(Check::Service, SERVICE, why.clone()));
            return;
        }
        self.judge_service(agent, report);
        if Self::get(&self.service, "LoadState") == "loaded" {
            self.judge_settings(report);
            self.judge_socket(report);
        }
    }

    fn judge_service(&self, agent: bool, report: &mut Report) {
        let get = |name| Self::get(&self.service, name);
        let state = format!("{} ({})", get("ActiveState"), get("SubState"));
        let warn =
            |seen: String, why: &str, remedy: &str| Finding::warn(Check::Service, SERVICE, seen, why, remedy);
        let fail = |seen: String, remedy: &str| Finding::fail(Check::Service, SERVICE, seen, DEAD, remedy);
        let elsewhere = "the agent that answers was started in another way";
        let restarts: u64 = get("NRestarts").parse().unwrap_or_default();
        report.add(match (get("LoadState"), get("ActiveState")) {
            ("not-found", _) if agent => {
                Finding::skipped(Check::Service, SERVICE, format!("not installed; {elsewhere}"))
            }
            ("not-found", _) => {
                warn("is not installed".into(), DEAD, "install the package (docs/install.md)")
            }
            ("masked", _) => fail(
                "is masked: it cannot be started".into(),
                "systemctl unmask kms-plugin.service kms-plugin.socket && systemctl enable --now kms-plugin",
            ),
            ("loaded", "active") if restarts >= MANY_RESTARTS => warn(
                format!("{state}, restarted {restarts} times by systemd"),
                "something ends it again and again; calls wait meanwhile",
                "journalctl -u kms-plugin -p warning -n 100 says what ended it",
            ),
            ("loaded", "active") => Finding::ok(Check::Service, SERVICE, state),
            ("loaded", "activating" | "reloading") => warn(
                format!("{state}: {}", get("StatusText")),
                "it is not ready yet",
                "journalctl -u kms-plugin -n 50 says what it waits for, or why it ends: it is started again and again",
            ),
            ("loaded", "failed") => fail(
                format!("{state}, result {}", get("Result")),
                "journalctl -u kms-plugin -n 50 says why; then: systemctl restart kms-plugin",
            ),
            ("loaded", _) if agent => warn(
                format!("{state}; {elsewhere}"),
                "two ways to start it end in a fight for the socket",
                "keep one: systemctl disable --now kms-plugin.service kms-plugin.socket, or stop the other",
            ),
            ("loaded", _) if self.is_enabled() => {
                fail(format!("{state}, although it is enabled"), "systemctl start kms-plugin")
            }
            ("loaded", _) => warn(
                format!("{state} and not enabled: it was not started yet"),
                DEAD,
                "systemctl enable --now kms-plugin",
            ),
            (load, _) => fail(
                format!("cannot be loaded ({load})"),
                "systemd-analyze verify kms-plugin.service names the line that is wrong",
            ),
        });
    }

    /// Whether the agent should be running by now.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_installed() && (self.is_enabled() || self.is_active())
    }

    fn is_enabled(&self) -> bool {
        matches!(
            Self::get(&self.service, "UnitFileState"),
            "enabled" | "enabled-runtime" | "static" | "generated"
        )
    }

    fn judge_settings(&self, report: &mut Report) {
        let get = |name| Self::get(&self.service, name);
        if self.is_active() && !self.is_enabled() {
            report.add(Finding::warn(
                Check::Service,
                SERVICE,
                format!("is {}", get("UnitFileState")),
                "after the next boot of this node it would not run",
                "systemctl enable kms-plugin",
            ));
        }
        if matches!(get("WatchdogUSec"), "0" | "infinity") {
            report.add(Finding::warn(
                Check::Service,
                SERVICE,
                "has no watchdog (WatchdogSec=0)",
                "an agent that hangs would not be restarted",
                "take WatchdogSec= out of the drop-in that changes it: systemctl cat kms-plugin.service",
            ));
        }
        if !matches!(get("StartLimitIntervalUSec"), "0" | "") {
            report.add(Finding::warn(
                Check::Service,
                SERVICE,
                "has a start limit (StartLimitIntervalSec= is not 0)",
                "after some starts in a row that fail, systemd would never try again",
                "take StartLimitIntervalSec= out of the drop-in that changes it: systemctl cat kms-plugin.service",
            ));
        }
        if get("NeedDaemonReload") == "yes" {
            report.add(Finding::warn(
                Check::Service,
                SERVICE,
                "its files were changed after systemd read them",
                "systemd still works with the old ones",
                "systemctl daemon-reload && systemctl restart kms-plugin",
            ));
        }
    }

    fn judge_socket(&self, report: &mut Report) {
        let get = |name| Self::get(&self.socket, name);
        match (get("LoadState"), get("ActiveState")) {
            ("loaded", "active") => report.add(Finding::ok(Check::Service, SOCKET, get("SubState"))),
            ("loaded", state) if self.is_active() || self.is_enabled() => report.add(Finding::fail(
                Check::Service,
                SOCKET,
                format!("{state}, result {}", get("Result")),
                "the API server has nothing to connect to",
                "systemctl restart kms-plugin.socket; systemctl status kms-plugin.socket says why it fails",
            )),
            ("loaded", _) => {}
            (load, _) => report.add(Finding::warn(
                Check::Service,
                SOCKET,
                format!("is {load}"),
                "without it a restart of the agent refuses connections for a moment",
                "install the package's kms-plugin.socket again (docs/install.md)",
            )),
        }
    }
}

/// `LoadCredential=NAME:PATH` in the files of a unit (systemd.exec(5)).
fn passed(files: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| {
        let (name, path) = line.trim().strip_prefix("LoadCredential=")?.split_once(':')?;
        Some((name.to_owned(), path.to_owned()))
    };
    files.lines().filter_map(pair).collect()
}

async fn show(unit: &str) -> Result<BTreeMap<String, String>, String> {
    let shown = external::run("systemctl", &["show", PROPERTIES, unit]).await?;
    if !shown.success {
        return Err("systemctl show failed: is systemd reachable from here?".into());
    }
    Ok(properties(&shown.text))
}

fn properties(shown: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    shown.lines().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_unit_sets_by_itself_is_named_without_its_values() {
        let service = BTreeMap::from([
            (
                "Environment".to_owned(),
                "KMS_PLUGIN_BOOT_ID=1 KMS_PLUGIN_VAULT_NAMESPACE=admin PATH=/".to_owned(),
            ),
            (
                "ExecStart".to_owned(),
                "{ path=/usr/bin/kms-plugin ; argv[]=/usr/bin/kms-plugin serve --log-level=debug ; x=y }"
                    .to_owned(),
            ),
        ]);
        let units = Units { service, ..Units::default() };
        assert_eq!(units.own_settings(), ["KMS_PLUGIN_VAULT_NAMESPACE", "--log-level"]);
    }

    #[test]
    fn the_files_of_credentials_are_in_the_units_text() {
        let credentials =
            passed("[Service]\nLoadCredential=secret-id:/etc/secret-id\nLoadCredential=bare\nUser=x\n");
        let units = Units { credentials, ..Units::default() };
        assert_eq!(units.credential_source("secret-id"), Some("/etc/secret-id"));
        assert_eq!((units.credential_source("secret"), units.credential_source("bare")), (None, None));
    }
}
