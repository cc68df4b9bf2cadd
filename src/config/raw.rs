//! The configuration as written: files, then environment, then flags, merged by figment.
//!
//! Knows the schema and the origin of each value. Must not know what the values are for. Reports every mistake with
//! its file and line, and all of them at once, so that one edit can correct them all.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use data_encoding::HEXLOWER;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Deserialize;

use super::document::{self, Document};
use super::problem::{ConfigError, Problem};
use super::schema::{self, Key, Kind};

/// Where to look for configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// The main file. It may be missing unless `required`.
    pub file: Option<PathBuf>,
    /// Whether the administrator named the file.
    pub required: bool,
    /// Another plugin's defaults by key path. Files override them.
    pub defaults: Vec<(String, String)>,
    /// Variables of the environment, by name.
    pub environment: Vec<(String, String)>,
    /// Flags by key path, as given on the command line.
    pub flags: Vec<(String, String)>,
}

/// One layer of values with their origin, for figment.
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
    /// A hash of the files, to compare what is on disk with what an agent has read.
    digest: String,
}

impl Merged {
    /// Reads and merges `sources`: the file, `config.d/*.toml` beside it by name, environment, flags.
    ///
    /// # Errors
    /// Every problem, not only the first.
    pub(crate) fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let merged = Self::merge(sources, &mut problems);
        if problems.is_empty() { Ok(merged) } else { Err(ConfigError { problems }) }
    }

    /// What can be read of a configuration with problems: an agent that waits for a better one needs its socket.
    pub(crate) fn readable(sources: &Sources) -> Self {
        Self::merge(sources, &mut Vec::new())
    }

    fn merge(sources: &Sources, problems: &mut Vec<Problem>) -> Self {
        let mut figment = Figment::new();
        let mut digest = Context::new(&SHA256);
        for (path, text) in &sources.defaults {
            if let Some(key) = schema::find(path) {
                add_text(&mut figment, key, text, "another plugin's default".into(), problems);
            }
        }
        for path in files(sources, problems) {
            if let Some(Document { values: dict, text }) = document::read(&path, problems) {
                let name = path.display().to_string();
                // Without the directory, which may be written in several ways.
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                for part in [&*file, text.as_str()] {
                    // With its length first, so that no two lists of files have the same bytes.
                    digest.update(&(part.len() as u64).to_be_bytes());
                    digest.update(part.as_bytes());
                }
                figment = figment.merge(Layer { name, dict });
            }
        }
        for (variable, text) in &sources.environment {
            match schema::KEYS.iter().find(|key| key.variable() == *variable) {
                Some(key) if text.trim().is_empty() && !key.may_be_empty() => {
                    problems.push(Problem::empty_variable(variable));
                }
                Some(key) => add_text(&mut figment, key, text, variable.clone(), problems),
                None => {
                    let nearest = schema::nearest_variable(variable);
                    problems
                        .push(Problem::new(variable, format!("unknown variable; did you mean {nearest}?")));
                }
            }
        }
        for (path, text) in &sources.flags {
            if let Some(key) = schema::find(path) {
                add_text(&mut figment, key, text, format!("--{}", key.flag()), problems);
            }
        }
        Self { figment, digest: HEXLOWER.encode(digest.finish().as_ref()) }
    }

    /// A hash of the files that were read, with their names. It does not cover variables and flags.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
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

    /// The value at a key's path; `None` when nobody set one.
    pub(crate) fn value(&self, path: &str) -> Option<Value> {
        self.figment.find_value(path).ok()
    }

    /// The origin of the value at `path`: a file's path, a variable or a flag; `None` when nobody set one.
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
    match fragments(main) {
        Ok(fragments) => files.extend(fragments),
        Err(error) => problems.push(Problem::new(
            fragment_directory(main).display().to_string(),
            format!("the directory cannot be read: {error}"),
        )),
    }
    files
}

/// The directory of the fragments that belong to a main file.
pub(crate) fn fragment_directory(main: &Path) -> PathBuf {
    main.with_file_name("config.d")
}

/// The fragments that belong to a main file, in the order in which they are read. None where the directory is missing.
///
/// # Errors
/// When the directory cannot be read.
pub(crate) fn fragments(main: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(fragment_directory(main)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut fragments: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    fragments.sort();
    Ok(fragments)
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
