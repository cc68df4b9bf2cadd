//! What `check` says of the units, for what systemd shows of them.

use super::*;
use crate::diagnose::check::finding::Outcome;

const LOADED: &str = "LoadState=loaded\nUnitFileState=enabled\nResult=success\n";
const FRESH: &str = "LoadState=loaded\nUnitFileState=disabled\nActiveState=inactive\nSubState=dead\nWatchdogUSec=infinity\nStartLimitIntervalUSec=0";

fn of(shown: &str, errors: &[&str]) -> Finding {
    let errors: Vec<String> = errors.iter().map(|error| (*error).to_owned()).collect();
    service(&Units::of_service(shown), false, &errors)
}

fn warnings(units: &Units) -> Vec<String> {
    let mut report = Report::new(|_| ());
    settings(units, &mut report);
    report.findings().iter().map(|finding| finding.seen.clone()).collect()
}

/// systemd 252 and 257 show WatchdogUSec=infinity, or 0, for a service that does not run.
#[test]
fn a_fresh_install_has_a_watchdog() {
    assert!(warnings(&Units::of_service(FRESH)).is_empty());
    let text = "# /usr/lib/systemd/system/kms-plugin.service\nWatchdogSec=30s\n# /etc/systemd/system/kms-plugin.service.d/x.conf\nWatchdogSec=0\n";
    assert!(warnings(&Units::with_text(FRESH, text))[0].contains("no watchdog"));
    let active = FRESH.replace("inactive", "active").replace("disabled", "enabled");
    assert!(warnings(&Units::of_service(&active))[0].contains("no watchdog"));
}

#[test]
fn a_loop_is_told_with_its_cause_and_the_last_error() {
    let waits = format!(
        "{LOADED}ActiveState=activating\nSubState=auto-restart\nNRestarts=4\nExecMainCode=1\nExecMainStatus=203"
    );
    let found = of(&waits, &["Failed at step EXEC spawning /bin/none: No such file or directory"]);
    assert_eq!(found.outcome, Outcome::Fail);
    for words in ["restarted 4 times", "exit code 203", "spawning /bin/none"] {
        assert!(found.seen.contains(words), "{}", found.seen);
    }
    assert!(found.see.unwrap().ends_with(RESTARTS));
    // Between two ends: it starts, or it was ready for a moment.
    let starts = format!("{LOADED}ActiveState=activating\nSubState=start\nNRestarts=9");
    assert_eq!(of(&starts, &[]).outcome, Outcome::Fail);
    let now = monotonic_now().as_micros();
    let short = format!(
        "{LOADED}ActiveState=active\nSubState=running\nNRestarts=9\nActiveEnterTimestampMonotonic={now}"
    );
    assert_eq!(of(&short, &[]).outcome, Outcome::Fail);
}

#[test]
fn a_service_that_settled_or_starts_is_no_loop() {
    let long =
        format!("{LOADED}ActiveState=active\nSubState=running\nNRestarts=9\nActiveEnterTimestampMonotonic=1");
    let unit = &Units::of_service(&long).service;
    assert!(!loops(unit, SETTLED * 2), "a crash each month is no loop");
    let once = format!(
        "{LOADED}ActiveState=active\nSubState=running\nNRestarts=1\nActiveEnterTimestampMonotonic={}",
        monotonic_now().as_micros()
    );
    assert_eq!(of(&once, &[]).outcome, Outcome::Ok);
    let starts = format!("{LOADED}ActiveState=activating\nSubState=start\nNRestarts=0");
    assert_eq!(of(&starts, &[]).outcome, Outcome::Warn);
}

#[test]
fn the_path_unit_and_the_path_of_the_socket_are_judged() {
    let found = |socket: &str, path: &str, configured: &str| {
        let units = Units::of_service(&format!("{LOADED}ActiveState=active\n\n{socket}\n\n{path}"));
        let mut report = Report::new(|_| ());
        super::socket(&units, Some(Path::new(configured)), &mut report);
        rebind(&units, &mut report);
        let bad = report.findings().iter().filter(|finding| finding.outcome > Outcome::Skipped);
        bad.map(|finding| format!("{} {}", finding.subject, finding.seen)).collect::<Vec<_>>()
    };
    let socket =
        "LoadState=loaded\nActiveState=active\nSubState=running\nListen=/run/kmsplugin/kms.sock (Stream)";
    let path = "LoadState=loaded\nActiveState=active\nSubState=waiting";
    assert!(found(socket, path, "/var/run/kmsplugin/kms.sock").is_empty());
    assert!(found(socket, path, "/run/other.sock")[0].contains("but server.socket is /run/other.sock"));
    for (state, words) in [
        ("LoadState=masked\nActiveState=inactive", "is masked"),
        (
            "LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=unit-start-limit-hit",
            "unit-start-limit-hit",
        ),
        ("LoadState=not-found\nActiveState=inactive", "is not installed"),
    ] {
        let seen = found(socket, state, "/run/kmsplugin/kms.sock");
        assert!(seen[0].starts_with(REBIND) && seen[0].contains(words), "{seen:?}");
    }
}
