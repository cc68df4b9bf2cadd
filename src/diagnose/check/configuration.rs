//! The configuration: it is valid, every setting has an effect, and the service has no other settings.

use std::path::{Path, PathBuf};

use super::finding::{Check, Finding};
use super::report::Report;
use crate::config::ConfigError;
use crate::config::ineffective::ineffective;
use crate::config::{Merged, Settings};
use crate::systemd::units::{Unit, Units};

/// Prefixes of the variables that are configuration: ours, and those of the plugins whose flags are accepted.
const PREFIXES: [&str; 3] = ["KMS_PLUGIN_", "VAULT_KMS_", "VAULT_KUBE_KMS_"];
/// The variable that our unit always sets.
const UNIT_VARIABLE: &str = "KMS_PLUGIN_BOOT_ID";

/// The configuration of the agent, as the caller read it.
pub(crate) struct Configuration {
    pub(crate) file: PathBuf,
    /// Whether nobody named a file, and the default file is missing.
    pub(crate) is_missing: bool,
    /// The runtime directory, where it is known although the rest is not valid.
    pub(crate) runtime_dir: Option<PathBuf>,
    pub(crate) merged: Result<Merged, ConfigError>,
}

impl Configuration {
    /// The settings, where the configuration is valid.
    pub(crate) fn settings(&self) -> Result<Settings, ConfigError> {
        self.merged.as_ref().map_err(Clone::clone).and_then(Settings::from_merged)
    }
}

/// The settings; `None` when they are not valid.
pub(super) fn check(
    configuration: &Configuration,
    units: &Units,
    report: &mut Report<'_>,
) -> Option<Settings> {
    let file = configuration.file.display().to_string();
    let valid = configuration.merged.as_ref().map_err(Clone::clone);
    match valid.and_then(|merged| Ok((merged, Settings::from_merged(merged)?))) {
        Ok((merged, settings)) => {
            let before = report.worst();
            warn(&file, merged, &units.service, report);
            if report.worst() == before {
                report.add(Finding::ok(Check::Configuration, file, "is valid"));
            }
            Some(settings)
        }
        Err(error) => {
            report.add(invalid(&file, &error, configuration.is_missing));
            None
        }
    }
}

fn invalid(file: &str, error: &ConfigError, is_missing: bool) -> Finding {
    let problems = error.to_string().replace('\n', "; ");
    let (seen, remedy) = match is_missing {
        true => (
            format!("is not there: {problems}"),
            "write it (docs/config.example.toml shows every setting), or name another file with --config",
        ),
        false => (problems, "correct it, and see the result with: kms-plugin config"),
    };
    let why = "the agent cannot serve with it; a running agent keeps its old configuration";
    Finding::fail(Check::Configuration, file, seen, why, remedy)
}

/// Warns of settings that are valid and probably wrong.
fn warn(file: &str, merged: &Merged, service: &Unit, report: &mut Report<'_>) {
    for setting in ineffective(merged) {
        report.add(Finding::warn(
            Check::Configuration,
            setting.problem.place,
            setting.problem.message,
            "the setting does nothing, and somebody may rely on it",
            setting.remedy,
        ));
    }
    let own = unit_settings(service);
    if !own.is_empty() {
        report.add(Finding::warn(
            Check::Configuration,
            "kms-plugin.service",
            format!("has settings of its own: {}", own.join(", ")),
            "this check reads only the files and its own flags, so the service may have another configuration",
            "give the same settings to kms-plugin check, or move them to the file: systemctl cat kms-plugin.service",
        ));
    }
    let insecure = [
        (
            "vault.insecure_skip_verify",
            "an attacker in the network can read every DEK seed and take the token",
        ),
        (
            "vault.insecure_plain_http",
            "an attacker in the network can read every DEK seed and take the token",
        ),
        (
            "server.insecure_admin_beyond_loopback",
            "other machines can read the state of this node, without TLS",
        ),
    ];
    for (key, why) in insecure {
        if merged.value(key).and_then(|value| value.to_bool()) == Some(true) {
            report.add(Finding::warn(
                Check::Configuration,
                file,
                format!("{key} is set"),
                why,
                format!(
                    "remove {key}; if a private CA signs the certificate, name the CA with vault.ca_file"
                ),
            ));
        }
    }
}

/// The settings that the unit has beside the configuration files. A command in a shell does not see them.
fn unit_settings(service: &Unit) -> Vec<String> {
    let is_ours = |name: &&str| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let variables = service.variables().filter(is_ours).filter(|name| *name != UNIT_VARIABLE);
    let file = service.environment_file().filter(|file| Path::new(file).exists());
    variables.chain(file).chain(service.flags()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_the_unit_are_named_without_their_values() {
        let units = Units::of_service(
            "Environment=KMS_PLUGIN_BOOT_ID=1 KMS_PLUGIN_VAULT_NAMESPACE=admin PATH=/\n\
             ExecStart={ path=/usr/bin/kms-plugin ; argv[]=/usr/bin/kms-plugin serve --log-level=debug ; x=y }",
        );
        assert_eq!(unit_settings(&units.service), ["KMS_PLUGIN_VAULT_NAMESPACE", "--log-level"]);
    }
}
