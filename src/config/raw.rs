//! The configuration as written: files, then environment, then flags, merged by figment.
//!
//! Knows the schema and where each value came from, not what the values mean. Every mistake in a file
//! is told with its file and line; all of them at once, so that one edit mends them.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::schema::{self, Key, Kind};

/// Largest configuration file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// What is wrong with the configuration: every problem that was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
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
pub struct Problem {
    /// `file:line`, a variable, a flag, or the key.
    pub place: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    /// A problem at `place`.
    pub fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into() }
    }
}

/// Where to look for configuration.
#[derive(Clone, Debug, Default)]
pub struct Sources {
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
pub struct Merged {
    figment: Figment,
}

impl Merged {
    /// Reads and merges `sources`: the file, `config.d/*.toml` beside it by name, environment, flags.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut figment = Figment::new();
        for (path, text) in &sources.defaults {
            if let Some(key) = schema::find(path) {
                add_text(&mut figment, key, text, "another plugin's default".into(), &mut problems);
            }
        }
        for path in files(sources, &mut problems) {
            if let Some(dict) = read(&path, &mut problems) {
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
    pub fn extract<T: for<'de> Deserialize<'de>>(&self) -> Result<T, ConfigError> {
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
    pub fn value(&self, path: &str) -> Option<Value> {
        self.figment.find_value(path).ok()
    }

    /// Where the value at `path` came from: a file's path, a variable, a flag; `None` for a default.
    pub fn origin(&self, path: &str) -> Option<String> {
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

fn read(path: &Path, problems: &mut Vec<Problem>) -> Option<Dict> {
    let place = path.display().to_string();
    let mut text = String::new();
    let opened = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    if let Err(error) = opened {
        let message = match error.kind() {
            std::io::ErrorKind::InvalidData => "the file is not UTF-8 text".to_owned(),
            _ => format!("the file cannot be read: {error}; check that it exists and its owner and mode"),
        };
        problems.push(Problem::new(place, message));
        return None;
    }
    if text.len() as u64 > MAX_FILE {
        problems
            .push(Problem::new(place, "the file is larger than 1 MiB; it is no configuration of this agent"));
        return None;
    }
    match DeTable::parse(&text) {
        Ok(table) => {
            let before = problems.len();
            let mut checker = Checker { path, text: &text, problems };
            checker.table("", "", table.get_ref());
            (checker.problems.len() == before).then(|| convert_table(table.get_ref()))
        }
        Err(error) => {
            let line = error.span().map(|span| line_of(&text, span.start));
            let place = line.map_or(place.clone(), |line| format!("{place}:{line}"));
            problems.push(Problem::new(place, format!("not valid TOML: {}", error.message())));
            None
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// Checks the keys and types of one file against the schema.
struct Checker<'a> {
    path: &'a Path,
    text: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl Checker<'_> {
    /// `prefix` is the path in the schema, `shown` the path as the reader wrote it.
    fn table(&mut self, prefix: &str, shown: &str, table: &DeTable<'_>) {
        let join = |a: &str, b: &str| if a.is_empty() { b.to_owned() } else { format!("{a}.{b}") };
        for (name, value) in table {
            let known = join(prefix, name.get_ref());
            let told = join(shown, name.get_ref());
            let line = line_of(self.text, name.span().start);
            let place = format!("{}:{line}", self.path.display());
            if let Some(key) = schema::find(&known) {
                if !fits(key.kind, value.get_ref()) {
                    let message = format!("{told} must be {}", key.kind.expected());
                    self.problems.push(Problem::new(place, message));
                }
            } else if known == schema::DECRYPT_ONLY {
                self.decrypt_only(&place, value.get_ref());
            } else if schema::is_table(&known) {
                match value.get_ref() {
                    DeValue::Table(inner) => self.table(&known, &told, inner),
                    _ => self.problems.push(Problem::new(place, format!("{told} must be a table: [{told}]"))),
                }
            } else {
                self.problems.push(Problem::new(place, unknown_key(&told, &known)));
            }
        }
    }

    fn decrypt_only(&mut self, place: &str, value: &DeValue<'_>) {
        let DeValue::Array(entries) = value else {
            let message = "decrypt_only must be a list of tables: [[decrypt_only]]";
            self.problems.push(Problem::new(place, message));
            return;
        };
        for entry in entries {
            let DeValue::Table(table) = entry.get_ref() else {
                self.problems.push(Problem::new(place, "each decrypt_only entry must be a table"));
                continue;
            };
            for (name, value) in table {
                let line = line_of(self.text, name.span().start);
                let place = format!("{}:{line}", self.path.display());
                match (name.get_ref().as_ref(), value.get_ref()) {
                    (schema::DECRYPT_ONLY_NAME, DeValue::String(_)) => {}
                    ("vault", DeValue::Table(inner)) => self.table("vault", "decrypt_only.vault", inner),
                    (other, _) => self.problems.push(Problem::new(
                        place,
                        format!("decrypt_only.{other} is not known or not of the right type; an entry has `name = \"…\"` and a table [decrypt_only.vault]"),
                    )),
                }
            }
        }
    }
}

fn unknown_key(told: &str, known: &str) -> String {
    match schema::nearest(known) {
        Some(near) => format!("unknown key {told}; did you mean {near}?"),
        None => format!("unknown key {told}; `kms-plugin config --keys` lists the known ones"),
    }
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

fn fits(kind: Kind, value: &DeValue<'_>) -> bool {
    let all = |value: &DeValue<'_>, kind: Kind| match value {
        DeValue::Array(items) => items.iter().all(|item| fits(kind, item.get_ref())),
        _ => false,
    };
    match kind {
        Kind::Text | Kind::Duration => matches!(value, DeValue::String(_)),
        Kind::Integer => {
            matches!(value, DeValue::Integer(number) if i64::from_str_radix(number.as_str(), number.radix()).is_ok())
        }
        Kind::Boolean => matches!(value, DeValue::Boolean(_)),
        Kind::TextList => all(value, Kind::Text),
        Kind::IntegerList => all(value, Kind::Integer),
    }
}

fn convert_table(table: &DeTable<'_>) -> Dict {
    table.iter().map(|(name, value)| (name.get_ref().to_string(), convert(value.get_ref()))).collect()
}

fn convert(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.to_string()),
        DeValue::Integer(number) => {
            Value::from(i64::from_str_radix(number.as_str(), number.radix()).unwrap_or_default())
        }
        DeValue::Boolean(flag) => Value::from(*flag),
        DeValue::Array(items) => {
            Value::from(items.iter().map(|item| convert(item.get_ref())).collect::<Vec<_>>())
        }
        DeValue::Table(table) => Value::from(convert_table(table)),
        // No key has these types: the checker has refused them.
        DeValue::Float(_) | DeValue::Datetime(_) => Value::from(String::new()),
    }
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
