//! The units: installed, enabled, active and not restarted again and again, with a watchdog, and without a start limit.

use std::path::Path;
use std::time::Duration;

use super::finding::{Check, Finding};
use super::report::Report;
use super::service_end;
use crate::systemd::journal::last_errors;
use crate::systemd::unit::{ActiveState, LoadState, Unit};
use crate::systemd::units::{REBIND, SERVICE, SOCKET, Units, UnitsError, monotonic_now};

/// From this number of restarts by systemd on, a service that runs only for a moment is one that ends again and again.
const MANY_RESTARTS: u64 = 3;
/// A service that has run for this long has settled: the longest pause between two restarts is 30 s.
const SETTLED: Duration = Duration::from_secs(120);
/// The section of docs/troubleshooting.md about a service that ends again and again.
pub(crate) const RESTARTS: &str = "the-agent-restarts";
/// Why a service that does not run matters.
const DEAD: &str =
    "without the agent, the API server can neither read nor write Secrets that it does not have in memory";

/// `unknown` is why nothing is known of the units; `agent_runs` is whether an agent answers, however it was started;
/// `socket_path` is `server.socket`, where the configuration is valid. Returns whether the service does not stay up.
pub(super) async fn check(
    units: &Units,
    unknown: Option<&UnitsError>,
    agent_runs: bool,
    socket_path: Option<&Path>,
    report: &mut Report<'_>,
) -> bool {
    if let Some(why) = unknown {
        report.add(Finding::skipped(Check::Service, SERVICE, why.to_string()));
        return false;
    }
    let ended = ended(&units.service, monotonic_now());
    let errors = match ended {
        true => {
            // Where systemd knows how that start ended, errors of an earlier one would mislead.
            let known = service_end::of(&units.service).is_some();
            last_errors(SERVICE, units.service.invocation().filter(|_| known)).await
        }
        false => Vec::new(),
    };
    report.add(service(units, agent_runs, &errors));
    if units.service.load_state() == LoadState::Loaded {
        settings(units, report);
        socket(units, socket_path, report);
        rebind(units, report);
    }
    ended
}

/// Whether the service does not stay up, or cannot be started: then the journal has the reason.
fn ended(unit: &Unit, now: Duration) -> bool {
    let broken = matches!(unit.load_state(), LoadState::Other(_));
    broken || unit.active_state() == ActiveState::Failed || loops(unit, now)
}

/// Whether systemd starts it again and again. `now` is on the monotonic clock.
fn loops(unit: &Unit, now: Duration) -> bool {
    let many = unit.restarts() >= MANY_RESTARTS;
    match unit.active_state() {
        _ if unit.waits_for_restart() => true,
        ActiveState::Activating => many,
        // It may become ready and end soon afterwards.
        ActiveState::Active => {
            many && unit.active_since().is_some_and(|since| now.saturating_sub(since) < SETTLED)
        }
        ActiveState::Failed | ActiveState::Inactive => false,
    }
}

/// A finding about a service that ended.
fn does_not_stay_up(unit: &Unit, seen: &str, errors: &[String]) -> Finding {
    let end = service_end::of(unit);
    let cause = end.as_ref().map(|end| format!(": {}", end.cause)).unwrap_or_default();
    let last = match errors {
        [] => String::new(),
        errors => format!("; its last errors: {}", errors.join("; ")),
    };
    let remedy = end.map_or_else(|| "journalctl -u kms-plugin -n 50 shows why".into(), |end| end.remedy);
    Finding::fail(Check::Service, SERVICE, format!("{seen}{cause}{last}"), DEAD, remedy).at(RESTARTS)
}

/// `errors` are the last ones of the service in the journal, where it has ended.
fn service(units: &Units, agent_runs: bool, errors: &[String]) -> Finding {
    let unit = &units.service;
    let state = unit.state_text();
    let warn =
        |seen: String, why: &str, remedy: &str| Finding::warn(Check::Service, SERVICE, seen, why, remedy);
    let fail = |seen: String, remedy: &str| Finding::fail(Check::Service, SERVICE, seen, DEAD, remedy);
    let elsewhere = "the agent that answers was started in another way";
    match (unit.load_state(), unit.active_state()) {
        (LoadState::NotFound, _) if agent_runs => {
            Finding::skipped(Check::Service, SERVICE, format!("is not installed; {elsewhere}"))
        }
        (LoadState::NotFound, _) => {
            warn("is not installed".into(), DEAD, "install the package (docs/install.md)")
        }
        (LoadState::Masked, _) => fail(
            "is masked: it cannot be started".into(),
            "systemctl unmask kms-plugin.service kms-plugin.socket && systemctl enable --now kms-plugin",
        ),
        (LoadState::Other(load), _) => fail(
            match errors.last() {
                Some(last) => format!("cannot be loaded ({load}): {last}"),
                None => format!("cannot be loaded ({load})"),
            },
            "systemd-analyze verify kms-plugin.service names the line that is wrong",
        ),
        (LoadState::Loaded, _) if loops(unit, monotonic_now()) => {
            let seen = match unit.restarts() {
                0 => "has ended, and systemd starts it again".to_owned(),
                1 => "has ended, and systemd has restarted it once".to_owned(),
                count => format!("ends again and again, restarted {count} times by systemd"),
            };
            does_not_stay_up(unit, &seen, errors)
        }
        (LoadState::Loaded, ActiveState::Failed) => does_not_stay_up(unit, &state, errors),
        (LoadState::Loaded, ActiveState::Active) => {
            let seen = match unit.restarts() {
                0 => state,
                count => format!("{state}; it ended before, restarted {count} times by systemd"),
            };
            Finding::ok(Check::Service, SERVICE, seen)
        }
        (LoadState::Loaded, ActiveState::Activating) => warn(
            format!("{state}: {}", unit.status_text()),
            "it is not ready yet",
            "journalctl -u kms-plugin -n 50 shows what it waits for",
        ),
        (LoadState::Loaded, ActiveState::Inactive) if agent_runs => warn(
            format!("{state}; {elsewhere}"),
            "if both start, each takes the socket from the other",
            "keep one: systemctl disable --now kms-plugin.service kms-plugin.socket, or stop the other",
        ),
        (LoadState::Loaded, ActiveState::Inactive) if unit.is_enabled() => {
            fail(format!("{state}, although it is enabled"), "systemctl start kms-plugin")
        }
        (LoadState::Loaded, ActiveState::Inactive) => warn(
            format!("{state} and not enabled: it was not started yet"),
            DEAD,
            "systemctl enable --now kms-plugin",
        ),
    }
}

fn settings(units: &Units, report: &mut Report<'_>) {
    let unit = &units.service;
    let mut warn = |seen: &str, why: &str, remedy: &str| {
        report.add(Finding::warn(Check::Service, SERVICE, seen, why, remedy));
    };
    if unit.is_active() && !unit.is_enabled() {
        warn(
            &format!("is {}", unit.enablement()),
            "it does not start after the next boot of this node",
            "systemctl enable kms-plugin",
        );
    }
    // systemd does not show the value of a service that does not run. Then the files say it.
    let no_watchdog = |(value, _): (&str, &Path)| matches!(value, "" | "0" | "infinity");
    if unit.has_no_watchdog() || !unit.is_active() && units.written("WatchdogSec").is_some_and(no_watchdog) {
        warn(
            "has no watchdog (WatchdogSec=0)",
            "systemd does not restart an agent that hangs",
            "remove WatchdogSec= from the drop-in that changes it: systemctl cat kms-plugin.service",
        );
    }
    if unit.has_start_limit() {
        warn(
            "has a start limit (StartLimitIntervalSec= is not 0)",
            "after some failed starts in a row, systemd never tries again",
            "remove StartLimitIntervalSec= from the drop-in that changes it: systemctl cat kms-plugin.service",
        );
    }
    if unit.main_pid().is_some_and(was_replaced) {
        warn(
            "the file of its program was replaced after it was started",
            "the agent that runs is not the one that is installed",
            "systemctl restart kms-plugin",
        );
    }
    if unit.needs_daemon_reload() {
        warn(
            "its files were changed after systemd read them",
            "systemd still uses the old files",
            "systemctl daemon-reload && systemctl restart kms-plugin",
        );
    }
}

/// Whether the file of this process's program is not there any more, as after an upgrade (proc(5), `/proc/PID/exe`).
fn was_replaced(pid: u32) -> bool {
    let program = std::fs::read_link(format!("/proc/{pid}/exe"));
    program.is_ok_and(|path| path.as_os_str().as_encoded_bytes().ends_with(b" (deleted)"))
}

fn socket(units: &Units, configured: Option<&Path>, report: &mut Report<'_>) {
    let unit = &units.socket;
    if let Some((listens, configured)) = unit.listens_on().zip(configured)
        && without_link(listens) != without_link(configured)
    {
        report.add(Finding::fail(
            Check::Service,
            SOCKET,
            format!(
                "listens on {}, but server.socket is {}",
                listens.display(),
                configured.display()
            ),
            "systemd passes its socket to the agent, which does not create the configured one",
            "make both the same: ListenStream= of a drop-in (systemctl cat kms-plugin.socket), or server.socket in the configuration",
        ));
        return;
    }
    let needed = units.service.is_active() || units.service.is_enabled();
    match (unit.load_state(), unit.active_state()) {
        (LoadState::Loaded, ActiveState::Active) => {
            report.add(Finding::ok(Check::Service, SOCKET, unit.state_text()));
        }
        (LoadState::Loaded, _) if needed => report.add(Finding::fail(
            Check::Service,
            SOCKET,
            format!("{}, result {}", unit.state_text(), unit.result()),
            "the API server has nothing to connect to",
            "systemctl restart kms-plugin.socket; systemctl status kms-plugin.socket shows why it fails",
        )),
        (LoadState::Loaded, _) => {}
        (load, _) => report.add(Finding::warn(
            Check::Service,
            SOCKET,
            match load {
                LoadState::Masked => "is masked".to_owned(),
                LoadState::Other(load) => format!("is {load}"),
                _ => "is not-found".to_owned(),
            },
            "without it, the API server's connections are refused while the agent restarts",
            "install kms-plugin.socket from the package again (docs/install.md)",
        )),
    }
}

/// `/var/run` is a link to `/run` (file-hierarchy(7)).
fn without_link(path: &Path) -> &Path {
    path.strip_prefix("/var")
        .ok()
        .filter(|rest| rest.starts_with("run"))
        .unwrap_or_else(|| path.strip_prefix("/").unwrap_or(path))
}

/// The unit that makes a deleted socket again.
fn rebind(units: &Units, report: &mut Report<'_>) {
    let unit = &units.rebind;
    if !units.socket.is_active() || unit.is_active() {
        return;
    }
    let (seen, remedy) = match unit.load_state() {
        LoadState::Masked => (
            "is masked".to_owned(),
            "systemctl unmask kms-plugin-rebind.path && systemctl start kms-plugin-rebind.path",
        ),
        LoadState::Loaded => (
            format!("{}, result {}", unit.state_text(), unit.result()),
            "systemctl restart kms-plugin-rebind.path; systemctl status kms-plugin-rebind.path shows why it ended",
        ),
        _ => ("is not installed".to_owned(), "install the package again (docs/install.md)"),
    };
    let why = "when somebody deletes the socket or its directory, nobody makes it again";
    report.add(Finding::warn(Check::Service, REBIND, seen, why, remedy));
}

#[cfg(test)]
#[path = "unit_tests.rs"]
mod tests;
