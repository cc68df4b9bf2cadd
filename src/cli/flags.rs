//! The flag of each configuration key, made from the schema, and the layers of configuration that a command merges.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};

use super::exit::{Exit, Failure};
use crate::clock;
use crate::compat::{CompatError, CompatFlags};
use crate::config::schema::{self, Kind, VARIABLE_PREFIX};
use crate::config::{ConfigError, Problem};
use crate::config::{DEFAULT_FILE, Merged, Provisional, Sources};
use crate::diagnose::check::Configuration;

/// The variable that names the file.
const FILE_VARIABLE: &str = "KMS_PLUGIN_CONFIG";
/// Variables with our prefix that are no keys: the file's path, the id of the boot, and those of the tests.
const NOT_KEYS: [&str; 3] = [FILE_VARIABLE, clock::BOOT_ID, "KMS_PLUGIN_TESTS_"];
/// Parts of the names that the kubelet gives to the variables of a Service. A Service may be called kms-plugin.
const OF_A_SERVICE: [&str; 3] = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"];

/// `--config`, and a flag for each key.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConfigFlags {
    file: Option<PathBuf>,
    values: Vec<(String, String)>,
    /// The flags and variables of another plugin. Our own flags override them.
    compat: CompatFlags,
}

impl ConfigFlags {
    /// The main configuration file.
    pub(crate) fn file(&self) -> PathBuf {
        self.named().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE))
    }

    /// The runtime directory, also when the configuration is not valid.
    pub(crate) fn runtime_dir(&self) -> Option<PathBuf> {
        let merged = Merged::readable(&self.sources(environment().unwrap_or_default()));
        merged.value("server.runtime_dir")?.into_string().map(PathBuf::from)
    }

    fn named(&self) -> Option<PathBuf> {
        self.file.clone().or_else(|| std::env::var_os(FILE_VARIABLE).map(PathBuf::from))
    }

    /// The default file, when it does not exist and nobody named another one.
    pub(crate) fn missing_file(&self) -> Option<PathBuf> {
        let default = PathBuf::from(DEFAULT_FILE);
        (self.named().is_none() && !default.exists()).then_some(default)
    }

    /// Adds the flags and variables of another plugin.
    pub(crate) fn with_compat(self, compat: CompatFlags) -> Self {
        Self { compat, ..self }
    }

    /// Whether flags or variables of another plugin were given.
    pub(crate) fn has_compat(&self) -> bool {
        !self.compat.values.is_empty()
    }

    /// Warnings about those flags and variables.
    pub(crate) fn compat_warnings(&self) -> impl Iterator<Item = &str> {
        self.compat.warnings.iter().map(String::as_str)
    }

    /// The merged configuration: file, `config.d`, environment, flags.
    pub(crate) fn merge(&self) -> Result<Merged, Failure> {
        self.load().map_err(|error| Failure::new(Exit::Config, error))
    }

    /// The configuration for `check`, valid or not.
    pub(crate) fn configuration(&self) -> Configuration {
        Configuration {
            file: self.file(),
            is_missing: self.missing_file().is_some(),
            runtime_dir: self.runtime_dir(),
            merged: self.load(),
        }
    }

    /// What an agent needs of a configuration that does not load.
    pub(crate) fn provisional(&self) -> Provisional {
        let environment = environment().unwrap_or_default();
        Provisional::of(&Merged::readable(&self.sources(environment)))
    }

    fn load(&self) -> Result<Merged, ConfigError> {
        if self.file.is_none() && std::env::var_os(FILE_VARIABLE).is_some_and(|name| name.is_empty()) {
            return Err(ConfigError { problems: vec![Problem::empty_variable(FILE_VARIABLE)] });
        }
        Merged::load(&self.sources(environment()?))
    }

    fn sources(&self, environment: Vec<(String, String)>) -> Sources {
        let named = self.named();
        Sources {
            required: named.is_some(),
            file: Some(named.unwrap_or_else(|| PathBuf::from(DEFAULT_FILE))),
            defaults: self.compat.defaults.clone(),
            environment,
            flags: self.compat.values.iter().chain(&self.values).cloned().collect(),
        }
    }
}

fn environment() -> Result<Vec<(String, String)>, ConfigError> {
    let ours = |(name, value): (OsString, OsString)| {
        let name = name.into_string().ok().filter(|name| name.starts_with(VARIABLE_PREFIX))?;
        let ours = !NOT_KEYS.iter().any(|other| name.starts_with(other))
            && !OF_A_SERVICE.iter().any(|part| name.contains(part));
        ours.then_some((name, value))
    };
    std::env::vars_os()
        .filter_map(ours)
        .map(|(name, value)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(ConfigError { problems: vec![Problem::new(name, "the value is not UTF-8")] }),
        })
        .collect()
}

impl From<CompatError> for Failure {
    fn from(error: CompatError) -> Self {
        Self::new(if error.is_usage() { Exit::Usage } else { Exit::Internal }, error)
    }
}

impl Args for ConfigFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help(format!(
                "Configuration file; the agent also reads config.d/*.toml beside it. Each of its keys has a flag, too: see kms-plugin serve --help. Variable: {FILE_VARIABLE} [default: {DEFAULT_FILE}]"
            ));
        schema::KEYS.iter().fold(command.arg(file), |command, key| command.arg(flag(key)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// Shows the flags of the keys in the help of a command.
pub(super) fn shown(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| {
        let is_key = schema::find(arg.get_id().as_str()).is_some();
        if is_key { arg.hide(false) } else { arg }
    })
}

fn flag(key: &schema::Key) -> Arg {
    let help = match key.shown_default() {
        None => key.help.to_owned(),
        Some(default) => format!("{} [default: {default}]", key.help),
    };
    let (section, _) = key.table_and_name();
    let arg = Arg::new(key.path).long(key.flag()).help(help).help_heading(format!("[{section}]")).hide(true);
    match key.kind {
        Kind::Boolean => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("true|false")
            .action(ArgAction::Set),
        Kind::TextList | Kind::IntegerList => arg.value_name("A,B").action(ArgAction::Append),
        Kind::Duration => arg.value_name("TIME").action(ArgAction::Set),
        Kind::Integer => arg.value_name("N").action(ArgAction::Set).allow_negative_numbers(true),
        Kind::Text => arg.value_name("TEXT").action(ArgAction::Set),
    }
}

impl FromArgMatches for ConfigFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |key: &schema::Key| {
            let values = matches.get_many::<String>(key.path)?;
            Some((key.path.to_owned(), values.cloned().collect::<Vec<_>>().join(",")))
        };
        Ok(Self {
            file: matches.get_one::<PathBuf>("config").cloned(),
            values: schema::KEYS.iter().filter_map(given).collect(),
            compat: CompatFlags::default(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
