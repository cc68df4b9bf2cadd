//! The configuration as written: files, then environment, then flags, merged by figment.
//!
//! Knows the schema and where each value came from, not what the values mean. Every mistake in a file
//! is told with its file and line; all of them at once, so that one edit mends them.

use std::fmt;
use std::path::PathBuf;

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Deserialize;

use super::document;
use super::schema::{self, Key, Kind};

/// What is wrong with the configuration: every problem that was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct ConfigError {
    /// The problems, in the order of the files.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for problem in &self.problems {
            write!(f, "{separator}{}: {}", problem.place, problem.message)?;
            separator = "\n";
        }
        Ok(())
    }
}

/// One problem: where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// `file:line`, a variable, a flag, or the key.
    pub place: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    /// A problem at `place`.
    pub(crate) fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into() }
    }
}

/// Where to look for configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// The main file. A missing one is an error only when `required`.
    pub file: Option<PathBuf>,
    /// Whether the administrator named the file.
    pub required: bool,
    /// Defaults other than ours, by key path: below the files.
    pub defaults: Vec<(String, String)>,
    /// Variables of the environment, by name.
    pub environment: Vec<(String, String)>,
    /// Flags by key path, as given on the command line.
    pub flags: Vec<(String, String)>,
}

/// One layer with its origin, for figment.
struct Layer {
    name: String,
    dict: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

/// The merged configuration with the origin of each value.
#[derive(Clone, Debug)]
pub(crate) struct Merged {
    figment: Figment,
}

impl Merged {
    /// Reads and merges `sources`: the file, `config.d/*.toml` beside it by name, environment, flags.
    pub(crate) fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut figment = Figment::new();
        for (path, text) in &sources.defaults {
            if let Some(key) = schema::find(path) {
                add_text(&mut figment, key, text, "another plugin's default".into(), &mut problems);
            }
        }
        for path in files(sources, &mut problems) {
            if let Some(dict) = document::read(&path, &mut problems) {
                figment = figment.merge(Layer { name: path.display().to_string(), dict });
            }
        }
        for (variable, text) in &sources.environment {
            match schema::KEYS.iter().find(|key| key.variable() == *variable) {
                Some(key) => add_text(&mut figment, key, text, variable.clone(), &mut problems),
                None => problems.push(Problem::new(variable, unknown_variable(variable))),
            }
        }
        for (path, text) in &sources.flags {
            if let Some(key) = schema::find(path) {
                add_text(&mut figment, key, text, format!("--{}", key.flag()), &mut problems);
            }
        }
        if problems.is_empty() { Ok(Self { figment }) } else { Err(ConfigError { problems }) }
    }

    /// Reads the merged values into `T`.
    pub(crate) fn extract<T: for<'de> Deserialize<'de>>(&self) -> Result<T, ConfigError> {
        self.figment.extract().map_err(|error| {
            let problems = error
                .into_iter()
                .map(|error| {
                    let place = error.metadata.as_ref().map(|source| source.name.to_string());
                    let key = error.path.join(".");
                    Problem::new(place.unwrap_or_else(|| key.clone()), format!("{key}: {}", error.kind))
                })
                .collect();
            ConfigError { problems }
        })
    }

    /// The value at a key's path, where one was given.
    pub(crate) fn value(&self, path: &str) -> Option<Value> {
        self.figment.find_value(path).ok()
    }

    /// Where the value at `path` came from: a file's path, a variable, a flag; `None` for a default.
    pub(crate) fn origin(&self, path: &str) -> Option<String> {
        self.figment.find_metadata(path).map(|metadata| metadata.name.to_string())
    }
}

fn files(sources: &Sources, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let Some(main) = &sources.file else { return Vec::new() };
    let mut files = Vec::new();
    if sources.required || main.exists() {
        files.push(main.clone());
    }
    let directory = main.with_file_name("config.d");
    match std::fs::read_dir(&directory) {
        Ok(entries) => {
            let mut fragments: Vec<PathBuf> = entries
                .filter_map(Result::ok)
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
                .collect();
            fragments.sort();
            files.extend(fragments);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => problems.push(Problem::new(
            directory.display().to_string(),
            format!("the directory cannot be read: {error}"),
        )),
    }
    files
}

fn unknown_variable(variable: &str) -> String {
    let path = variable.trim_start_matches("KMS_PLUGIN_").to_lowercase();
    let nearest = schema::KEYS
        .iter()
        .max_by(|a, b| {
            let near = |key: &Key| strsim::jaro_winkler(&path, &key.path.replace('.', "_"));
            near(a).total_cmp(&near(b))
        })
        .map(Key::variable)
        .unwrap_or_default();
    format!("unknown variable; did you mean {nearest}?")
}

fn add_text(figment: &mut Figment, key: &Key, text: &str, origin: String, problems: &mut Vec<Problem>) {
    let items = || text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let value = match key.kind {
        Kind::Text | Kind::Duration => Some(Value::from(text.to_owned())),
        Kind::Integer => text.trim().parse::<i64>().ok().map(Value::from),
        Kind::Boolean => text.trim().parse::<bool>().ok().map(Value::from),
        Kind::TextList => Some(Value::from(items().map(str::to_owned).collect::<Vec<_>>())),
        Kind::IntegerList => {
            items().map(|item| item.parse::<i64>().ok()).collect::<Option<Vec<_>>>().map(Value::from)
        }
    };
    let Some(value) = value else {
        let expected = match key.kind {
            Kind::IntegerList => "whole numbers separated by commas",
            kind => kind.expected(),
        };
        problems.push(Problem::new(origin, format!("{} must be {expected}", key.path)));
        return;
    };
    let dict =
        key.path.rsplit('.').fold(value, |inner, name| Value::from(Dict::from([(name.to_owned(), inner)])));
    if let Value::Dict(_, dict) = dict {
        *figment = std::mem::take(figment).merge(Layer { name: origin, dict });
    }
}
