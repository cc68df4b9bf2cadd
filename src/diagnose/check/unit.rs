//! The units: installed, enabled, active, with a watchdog, and without a start limit.

use super::finding::{Check, Finding};
use super::report::Report;
use crate::systemd::units::{ActiveState, LoadState, SERVICE, SOCKET, Units, UnitsError};

/// From this number of restarts by systemd on, the check warns.
const MANY_RESTARTS: u64 = 5;
/// Why a service that does not run matters.
const DEAD: &str =
    "without the agent, the API server can neither read nor write Secrets that it does not have in memory";

/// `unknown` is why nothing is known of the units; `agent_runs` is whether an agent answers, however it was started.
pub(super) fn check(units: &Units, unknown: Option<&UnitsError>, agent_runs: bool, report: &mut Report<'_>) {
    if let Some(why) = unknown {
        report.add(Finding::skipped(Check::Service, SERVICE, why.to_string()));
        return;
    }
    report.add(service(units, agent_runs));
    if units.service.load_state() == LoadState::Loaded {
        settings(units, report);
        socket(units, report);
    }
}

fn service(units: &Units, agent_runs: bool) -> Finding {
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
        (LoadState::Loaded, ActiveState::Active) if unit.restarts() >= MANY_RESTARTS => warn(
            format!("{state}, restarted {} times by systemd", unit.restarts()),
            "the agent ends again and again; calls wait meanwhile",
            "journalctl -u kms-plugin -p warning -n 100 shows why it ended",
        ),
        (LoadState::Loaded, ActiveState::Active) => Finding::ok(Check::Service, SERVICE, state),
        (LoadState::Loaded, ActiveState::Activating) => warn(
            format!("{state}: {}", unit.status_text()),
            "it is not ready yet",
            "journalctl -u kms-plugin -n 50 shows what it waits for, or why it ends and is restarted",
        ),
        (LoadState::Loaded, ActiveState::Failed) => fail(
            format!("{state}, result {}", unit.result()),
            "journalctl -u kms-plugin -n 50 shows why; then: systemctl restart kms-plugin",
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
        (LoadState::Other(load), _) => fail(
            format!("cannot be loaded ({load})"),
            "systemd-analyze verify kms-plugin.service names the line that is wrong",
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
    if unit.has_no_watchdog() {
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
    if unit.needs_daemon_reload() {
        warn(
            "its files were changed after systemd read them",
            "systemd still uses the old files",
            "systemctl daemon-reload && systemctl restart kms-plugin",
        );
    }
}

fn socket(units: &Units, report: &mut Report<'_>) {
    let unit = &units.socket;
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
