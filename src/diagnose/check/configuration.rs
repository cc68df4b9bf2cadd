//! The configuration: valid, with no setting that has no effect, and the one that the service has, too.

use super::finding::{Check, Finding};
use super::report::Report;
use super::unit::Units;
use crate::cli::exit::Failure;
use crate::cli::flags::ConfigFlags;
use crate::config::ineffective::ineffective;
use crate::config::{Merged, Settings};

/// Reads it; `None` when it cannot be used, after telling why.
pub(crate) fn check(flags: &ConfigFlags, units: &Units, report: &mut Report) -> Option<Settings> {
    let place = flags.file().display().to_string();
    let merged = match flags.merge() {
        Ok(merged) => merged,
        Err(failure) => {
            invalid(&place, &failure, flags, report);
            return None;
        }
    };
    match Settings::from_merged(&merged) {
        Ok(settings) => {
            let told = report.worst();
            told_of(&place, &merged, units, report);
            if report.worst() == told {
                report.add(Finding::ok(Check::Configuration, place, "is valid"));
            }
            Some(settings)
        }
        Err(error) => {
            invalid(&place, &Failure::new(crate::cli::exit::Exit::Config, error), flags, report);
            None
        }
    }
}

fn invalid(place: &str, failure: &Failure, flags: &ConfigFlags, report: &mut Report) {
    let why = "the agent does not start with it; a running one keeps the old";
    let (seen, remedy) = match flags.missing_file() {
        Some(_) => (
            format!("is not there: {failure}"),
            "write it (docs/config.example.toml shows every setting), or name another one with --config",
        ),
        None => (failure.to_string(), "correct it, and see the result with: kms-plugin config"),
    };
    report.add(Finding::fail(Check::Configuration, place, seen, why, remedy));
}

/// What is valid and looks wrong.
fn told_of(place: &str, merged: &Merged, units: &Units, report: &mut Report) {
    for stray in ineffective(merged) {
        report.add(Finding::warn(
            Check::Configuration,
            stray.problem.place,
            stray.problem.message,
            "a setting without effect hides what is meant",
            stray.remedy,
        ));
    }
    let own = units.own_settings();
    if !own.is_empty() {
        report.add(Finding::warn(
            Check::Configuration,
            "kms-plugin.service",
            format!("has settings of its own: {}", own.join(", ")),
            "this check reads the files and its own flags, so it may look at something else than the service does",
            "give the same to kms-plugin check, or move them to the file: systemctl cat kms-plugin.service",
        ));
    }
    let insecure = [
        ("vault.insecure_skip_verify", "whoever is in the way can read every DEK seed and take the token"),
        ("vault.insecure_plain_http", "whoever is in the way can read every DEK seed and take the token"),
        ("server.insecure_admin_beyond_loopback", "other machines see the state of this node, without TLS"),
    ];
    for (key, why) in insecure {
        if merged.value(key).and_then(|value| value.to_bool()) == Some(true) {
            report.add(Finding::warn(
                Check::Configuration,
                place,
                format!("{key} is set"),
                why,
                format!("take {key} out; with a private authority, name it with vault.ca_file"),
            ));
        }
    }
}
