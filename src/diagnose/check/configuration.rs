//! The configuration: the service can read it, it is valid, every setting has an effect, and the service has no other
//! settings.

use std::path::{Path, PathBuf};

use super::finding::{Check, Finding};
use super::report::Report;
use super::service_user::{ServiceUser, UnknownUser};
use crate::config::ConfigError;
use crate::config::ineffective::ineffective;
use crate::config::{DEFAULT_FILE, Merged, Settings, fragment_directory, fragments};
use crate::systemd::unit::Unit;
use crate::systemd::units::Units;

/// Prefixes of the variables that are configuration: ours, and those of the plugins whose flags are accepted.
const PREFIXES: [&str; 3] = ["KMS_PLUGIN_", "VAULT_KMS_", "VAULT_KUBE_KMS_"];
/// The flag that names the file.
const FILE_FLAG: &str = "--config";
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
    let before = report.worst();
    if is_of_service(&configuration.file, &units.service) {
        unreadable(&configuration.file, &ServiceUser::of(units))
            .into_iter()
            .for_each(|finding| report.add(finding));
    }
    let valid = configuration.merged.as_ref().map_err(Clone::clone);
    match valid.and_then(|merged| Ok((merged, Settings::from_merged(merged)?))) {
        Ok((merged, settings)) => {
            warn(&configuration.file, merged, &units.service, report);
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

/// Whether this is the file that the service reads.
fn is_of_service(file: &Path, service: &Unit) -> bool {
    service.user().is_some() && file == service.path_after(FILE_FLAG).unwrap_or(Path::new(DEFAULT_FILE))
}

/// What the user of the service cannot read. This check can: it runs as root.
fn unreadable(file: &Path, user: &Result<ServiceUser, UnknownUser>) -> Vec<Finding> {
    let user = match user {
        Ok(user) => user,
        Err(UnknownUser::Missing(name)) => {
            return vec![Finding::fail(
                Check::Configuration,
                "kms-plugin.service",
                format!("its user {name} does not exist"),
                "systemd cannot start the service",
                "systemd-sysusers creates user kms-plugin; remove User= from the drop-in that changes it: systemctl cat kms-plugin.service",
            )];
        }
        Err(_) => return Vec::new(),
    };
    let fragments_at = fragment_directory(file);
    let main = file.exists().then(|| user.may_read(file).map_err(|at| (file.to_path_buf(), at)));
    let list =
        fragments_at.is_dir().then(|| user.may_list(&fragments_at).map_err(|at| (fragments_at.clone(), at)));
    let fragments = fragments(file).unwrap_or_default();
    let fragments = fragments.into_iter().map(|path| user.may_read(&path).map_err(|at| (path.clone(), at)));
    let denied: Vec<(PathBuf, PathBuf)> =
        main.into_iter().chain(list).chain(fragments).filter_map(Result::err).collect();
    let mut obstacles: Vec<&PathBuf> = denied.iter().map(|(_, obstacle)| obstacle).collect();
    obstacles.dedup();
    let finding = |obstacle: &&PathBuf| {
        let paths: Vec<String> = denied
            .iter()
            .filter(|(_, at)| at == *obstacle)
            .map(|(path, _)| path.display().to_string())
            .collect();
        let (name, shown) = (&user.name, obstacle.display());
        Finding::fail(
            Check::Configuration,
            paths.join(" and "),
            format!("user {name} cannot read it: {shown} does not allow it"),
            "root can read it, but the service runs as another user: it has no configuration",
            // A directory of others, such as a home, must not get another owner.
            match obstacle.starts_with("/etc") && obstacle.as_path() != Path::new("/etc") {
                true => format!("{}; the agent reads it again within seconds", user.grant(obstacle)),
                false => format!(
                    "move it to /etc/kms-plugin, where user {name} can read it (chown root:{name}, chmod 0640)"
                ),
            },
        )
    };
    obstacles.iter().map(finding).collect()
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
fn warn(file: &Path, merged: &Merged, service: &Unit, report: &mut Report<'_>) {
    for setting in ineffective(merged) {
        report.add(Finding::warn(
            Check::Configuration,
            setting.problem.place,
            setting.problem.message,
            "the setting does nothing, and somebody may rely on it",
            setting.remedy,
        ));
    }
    let own = unit_settings(file, service);
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
                file.display().to_string(),
                format!("{key} is set"),
                why,
                format!(
                    "remove {key}; if a private CA signs the certificate, name the CA with vault.ca_file"
                ),
            ));
        }
    }
}

/// The settings that the unit has beside the configuration files. A command in a shell does not see them. `--config`
/// is none of them where it names the file of this check.
fn unit_settings(file: &Path, service: &Unit) -> Vec<String> {
    let is_ours = |name: &&str| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let variables = service.variables().filter(is_ours).filter(|name| *name != UNIT_VARIABLE);
    let environment = service.environment_file().filter(|file| Path::new(file).exists());
    let same_file = service.path_after(FILE_FLAG) == Some(file);
    let flags = service.flags().filter(|flag| !(same_file && *flag == FILE_FLAG));
    variables.chain(environment).chain(flags).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_settings_of_the_unit_are_named_without_their_values() {
        let units = Units::of_service(
            "Environment=KMS_PLUGIN_BOOT_ID=1 KMS_PLUGIN_VAULT_NAMESPACE=admin PATH=/\n\
             ExecStart={ path=/usr/bin/kms-plugin ; argv[]=/usr/bin/kms-plugin serve --config=/etc/a.toml --log-level=debug ; x=y }",
        );
        let settings = |file: &str| unit_settings(Path::new(file), &units.service);
        assert_eq!(settings("/etc/b.toml"), ["KMS_PLUGIN_VAULT_NAMESPACE", "--config", "--log-level"]);
        assert_eq!(settings("/etc/a.toml"), ["KMS_PLUGIN_VAULT_NAMESPACE", "--log-level"]);
        let of_service = |file: &str, shown: &str| {
            is_of_service(Path::new(file), &Units::of_service(&format!("User=kms-plugin\n{shown}")).service)
        };
        assert!(of_service(DEFAULT_FILE, "") && !of_service("/tmp/new.toml", ""));
        assert!(of_service(
            "/etc/a.toml",
            "ExecStart={ argv[]=/usr/bin/kms-plugin serve --config /etc/a.toml ; x=y }"
        ));
    }

    /// A file of mode 0600, as under `umask 077`, or in a directory of root under `umask 027`.
    #[test]
    fn what_the_user_of_the_service_cannot_read_is_told_with_the_command() {
        let directory = tempfile::tempdir().unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let (file, fragment) =
            (directory.path().join("config.toml"), directory.path().join("config.d/a.toml"));
        fs::create_dir(directory.path().join("config.d")).unwrap();
        for path in [&file, &fragment] {
            fs::write(path, "").unwrap();
            mode(path, 0o644);
        }
        mode(directory.path(), 0o755);
        mode(&directory.path().join("config.d"), 0o755);
        let nobody = || Ok(ServiceUser::stranger("nobody"));
        assert!(unreadable(&file, &nobody()).is_empty());
        mode(&file, 0o600);
        mode(&fragment, 0o600);
        let found = unreadable(&file, &nobody());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].subject.ends_with("config.toml") && found[0].seen.contains("user nobody cannot read it")
        );
        assert!(found[1].subject.ends_with("a.toml"), "{found:?}");
        // One cause, one finding.
        mode(directory.path(), 0o750);
        let found = unreadable(&file, &nobody());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].subject.contains("config.toml and "), "{found:?}");
        let found = unreadable(&file, &Err(UnknownUser::Missing("kms-plugin".into())));
        assert!(found[0].seen.contains("user kms-plugin does not exist"));
        assert!(unreadable(&file, &Err(UnknownUser::Dynamic)).is_empty());
    }
}
