//! One configuration file: its keys and types checked against the schema, each mistake with its line.
//!
//! Must not know other files, nor which value wins.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use figment::value::{Dict, Value};
use toml::de::{DeTable, DeValue};

use super::raw::Problem;
use super::schema::{self, Kind};

/// Largest configuration file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Reads a file; `None` when it has problems, which are told.
pub(super) fn read(path: &Path, problems: &mut Vec<Problem>) -> Option<Dict> {
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
