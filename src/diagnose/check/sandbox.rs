//! The settings of the service that a drop-in can change so that the agent cannot work: its network, its limits, its
//! directories.
//!
//! Must not judge a setting that does no harm: administrators add limits and restrictions of their own.

use super::finding::{Check, Finding};
use super::report::Report;
use crate::systemd::unit::LoadState;
use crate::systemd::units::{SERVICE, Units};

/// Fewer open files than this are not enough for the API servers and the connections to Vault.
const FEW_FILES: u64 = 1024;
/// Fewer open files than this are not enough to start.
const TOO_FEW_FILES: u64 = 128;
/// Fewer tasks (threads and processes) than this are not enough: the runtime has four threads, and others for files.
const FEW_TASKS: u64 = 16;
/// Less memory than this is not enough, in bytes.
const LITTLE_MEMORY: u64 = 64 << 20;
/// Less address space than this is not enough, in bytes: each thread reserves some, without using it.
const LITTLE_ADDRESS_SPACE: u64 = 1 << 30;
const REMOVE: &str = "systemctl daemon-reload && systemctl restart kms-plugin";

/// What is wrong with a setting.
struct Fault {
    setting: &'static str,
    seen: String,
    why: &'static str,
    /// Whether the agent works in spite of it.
    works: bool,
}

/// `network` is whether the agent reaches Vault by TCP.
pub(super) fn check(units: &Units, network: bool, report: &mut Report<'_>) {
    for Fault { setting, seen, why, works } in faults(units, network) {
        let remedy = match units.written(setting) {
            Some((_, file)) => format!("correct or remove {setting}= in {}, then: {REMOVE}", file.display()),
            None => format!(
                "correct or remove {setting}= in the drop-in that sets it (systemctl cat kms-plugin.service), then: {REMOVE}"
            ),
        };
        let finding = if works { Finding::warn } else { Finding::fail };
        report.add(finding(Check::Service, SERVICE, seen, why, remedy));
    }
}

fn faults(units: &Units, network: bool) -> Vec<Fault> {
    let unit = &units.service;
    let mut faults = Vec::new();
    // systemd shows defaults for a unit that it could not load.
    if unit.load_state() != LoadState::Loaded {
        return faults;
    }
    let mut fault = |setting, seen: String, why, works| faults.push(Fault { setting, seen, why, works });
    let no_network =
        "the agent cannot reach Vault; a check in a shell can, because it runs outside of the unit";
    if network && unit.is_on("PrivateNetwork") {
        fault("PrivateNetwork", "has no network (PrivateNetwork=yes)".into(), no_network, false);
    }
    let families: Vec<&str> =
        unit.setting("RestrictAddressFamilies").unwrap_or_default().split_whitespace().collect();
    // A list that begins with ~ names what is forbidden.
    let forbids = families.first().is_some_and(|first| first.starts_with('~'));
    let listed = |name: &str| families.iter().any(|family| family.trim_start_matches('~') == name);
    let allowed = |name: &str| listed(name) != forbids || !unit.shows("RestrictAddressFamilies");
    let missing: Vec<&str> = [("AF_UNIX", true), ("AF_INET", network)]
        .into_iter()
        .filter_map(|(name, needed)| (needed && !allowed(name)).then_some(name))
        .collect();
    if !missing.is_empty() {
        let seen = format!("may not use {} (RestrictAddressFamilies=)", missing.join(" and "));
        fault("RestrictAddressFamilies", seen, "the agent cannot open the sockets that it needs", false);
    }
    let denied = unit.setting("IPAddressDeny").unwrap_or_default();
    if network && denied.contains("0.0.0.0/0") && unit.setting("IPAddressAllow").is_none() {
        fault("IPAddressDeny", "may not reach any address (IPAddressDeny=any)".into(), no_network, false);
    }
    if let Some(files) = unit.limit("LimitNOFILE").filter(|files| *files < FEW_FILES) {
        fault(
            "LimitNOFILE",
            format!("may open {files} files (LimitNOFILE=); it needs {FEW_FILES} or more"),
            "the agent cannot start, or refuses connections: too many open files",
            files >= TOO_FEW_FILES,
        );
    }
    for setting in ["TasksMax", "LimitNPROC"] {
        if let Some(tasks) = unit.limit(setting).filter(|tasks| *tasks < FEW_TASKS) {
            let seen = format!("may have {tasks} threads ({setting}=); it needs {FEW_TASKS} or more");
            fault(setting, seen, "the agent cannot start a thread, and ends", false);
        }
    }
    for (setting, least) in [("MemoryMax", LITTLE_MEMORY), ("LimitAS", LITTLE_ADDRESS_SPACE)] {
        if let Some(bytes) = unit.limit(setting).filter(|bytes| *bytes < least) {
            let seen = format!(
                "may use {} MiB of memory ({setting}=); it needs {} or more",
                bytes >> 20,
                least >> 20
            );
            fault(setting, seen, "the agent ends when it needs more", false);
        }
    }
    if unit.setting("Type").is_some_and(|kind| !kind.starts_with("notify")) {
        fault(
            "Type",
            format!("has Type={}; it must be notify", unit.setting("Type").unwrap_or_default()),
            "systemd does not know whether the agent is ready or hangs, and the agent ends when its configuration is wrong",
            true,
        );
    }
    if unit.setting("Restart").is_some_and(|when| when != "always") {
        fault(
            "Restart",
            format!("has Restart={}; it must be always", unit.setting("Restart").unwrap_or_default()),
            "systemd does not start the agent again after every end",
            true,
        );
    }
    if let Some(time) = unit.setting("RuntimeMaxUSec").filter(|time| *time != "infinity") {
        fault(
            "RuntimeMaxSec",
            format!("ends after {time} (RuntimeMaxSec=)"),
            "systemd ends the agent although nothing is wrong",
            true,
        );
    }
    for (name, path) in units.credential_sources().filter(|(_, path)| path.is_absolute() && !path.exists()) {
        fault(
            "LoadCredential",
            format!(
                "passes the credential {name} from {}, which is missing (LoadCredential=)",
                path.display()
            ),
            "systemd does not start the agent without it",
            false,
        );
    }
    // systemd does not show it when it is empty.
    if !unit
        .setting("RuntimeDirectory")
        .is_some_and(|names| names.split(' ').any(|name| name == "kms-plugin"))
    {
        fault(
            "RuntimeDirectory",
            "has no runtime directory (RuntimeDirectory=)".into(),
            "the agent needs /run/kms-plugin for its private sockets and the saved identity of the key",
            false,
        );
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What systemd 257 shows of the package's unit, of the settings that are looked at.
    const HEALTHY: &str = "LoadState=loaded\nType=notify\nRestart=always\nRuntimeMaxUSec=infinity\nTasksMax=64\nMemoryMax=infinity\n\
        LimitNOFILE=65536\nLimitAS=infinity\nLimitNPROC=96365\nPrivateTmp=yes\nPrivateNetwork=no\n\
        ProtectHome=yes\nRestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX\nRuntimeDirectory=kms-plugin";

    fn found(shown: &str, network: bool) -> Vec<&'static str> {
        faults(&Units::of_service(shown), network).iter().map(|fault| fault.setting).collect()
    }

    #[test]
    fn settings_of_the_package_and_harmless_ones_are_no_fault() {
        assert!(found(HEALTHY, true).is_empty());
        for (old, new) in [
            ("MemoryMax=infinity", "MemoryMax=268435456"),
            ("LimitNOFILE=65536", "LimitNOFILE=1048576"),
            ("RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX", "RestrictAddressFamilies=~AF_PACKET"),
            ("RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX", "RestrictAddressFamilies=~"),
            ("RuntimeDirectory=kms-plugin", "RuntimeDirectory=other kms-plugin"),
            ("PrivateTmp=yes", "IPAddressDeny=::/0 0.0.0.0/0\nIPAddressAllow=10.0.0.0/8"),
        ] {
            let shown = HEALTHY.replace(old, new);
            assert!(found(&shown, true).is_empty(), "{new}: {:?}", found(&shown, true));
        }
        assert!(found("", true).is_empty(), "nothing is known");
        assert!(found("LoadState=masked\nType=simple\nRestart=no", true).is_empty(), "defaults");
        let shown = HEALTHY.replace("PrivateNetwork=no", "PrivateNetwork=yes");
        assert!(found(&shown, false).is_empty(), "all addresses are unix sockets");
    }

    #[test]
    fn each_setting_that_stops_the_agent_is_a_fault() {
        for (old, new, setting) in [
            ("PrivateNetwork=no", "PrivateNetwork=yes", "PrivateNetwork"),
            ("AF_INET AF_INET6 AF_UNIX", "AF_UNIX", "RestrictAddressFamilies"),
            ("AF_INET AF_INET6 AF_UNIX", "~AF_UNIX", "RestrictAddressFamilies"),
            ("AF_INET AF_INET6 AF_UNIX", "", "RestrictAddressFamilies"),
            ("PrivateTmp=yes", "IPAddressDeny=::/0 0.0.0.0/0", "IPAddressDeny"),
            ("LimitNOFILE=65536", "LimitNOFILE=16", "LimitNOFILE"),
            ("TasksMax=64", "TasksMax=2", "TasksMax"),
            ("LimitNPROC=96365", "LimitNPROC=1", "LimitNPROC"),
            ("MemoryMax=infinity", "MemoryMax=8388608", "MemoryMax"),
            ("LimitAS=infinity", "LimitAS=20971520", "LimitAS"),
            ("Type=notify", "Type=simple", "Type"),
            ("Restart=always", "Restart=no", "Restart"),
            ("RuntimeMaxUSec=infinity", "RuntimeMaxUSec=1h", "RuntimeMaxSec"),
            ("\nRuntimeDirectory=kms-plugin", "", "RuntimeDirectory"),
        ] {
            assert_eq!(found(&HEALTHY.replace(old, new), true), [setting], "{new}");
        }
    }

    #[test]
    fn the_remedy_names_the_drop_in() {
        let text = "# /etc/systemd/system/kms-plugin.service.d/local.conf\n[Service]\nPrivateNetwork=yes\nLoadCredential=a:/nonexistent/a\nLoadCredential=b:/etc\n";
        let units = Units::with_text(&HEALTHY.replace("PrivateNetwork=no", "PrivateNetwork=yes"), text);
        let mut report = Report::new(|_| ());
        check(&units, true, &mut report);
        let remedy = report.findings()[0].remedy.clone().unwrap();
        assert!(
            remedy.contains("PrivateNetwork= in /etc/systemd/system/kms-plugin.service.d/local.conf"),
            "{remedy}"
        );
        let seen: Vec<&str> = report.findings().iter().skip(1).map(|finding| &*finding.seen).collect();
        assert!(seen.len() == 1 && seen[0].contains("/nonexistent/a, which is missing"), "{seen:?}");
    }
}
