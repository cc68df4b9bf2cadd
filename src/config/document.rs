//! Reads one configuration file, and checks its keys and types against the schema. Each mistake has its line.
//!
//! Must not know the other files.

use std::io;
use std::path::Path;

use figment::value::{Dict, Value};
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::problem::Problem;
use super::schema::{self, Kind};
use crate::files::{self, WrongEncoding};

/// Largest configuration file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Most entries of `decrypt_only`. Each has a login and looks at its server: a migration needs one or two.
const MAX_DECRYPT_ONLY: usize = 32;
/// Most problems of one file that are shown.
const MAX_PROBLEMS: usize = 50;

/// A file that was read.
pub(super) struct Document {
    /// Its values. With problems of single keys, the values of the others are right.
    pub values: Dict,
    pub text: Zeroizing<String>,
}

/// Reads a file. `None` when it is no TOML at all. What is wrong with it is added to `problems`.
pub(super) fn read(path: &Path, problems: &mut Vec<Problem>) -> Option<Document> {
    let place = path.display().to_string();
    let text = match files::read(path, MAX_FILE) {
        Ok(content) => match WrongEncoding::of(&content) {
            // The parser ignores a byte order mark.
            None | Some(WrongEncoding::ByteOrderMark) => files::into_text(content),
            Some(encoding) => {
                let command = encoding.command(&place).map(|command| format!("; {command}"));
                let message = format!("the file {}{}", encoding.what(), command.unwrap_or_default());
                problems.push(Problem::new(place, message));
                return None;
            }
        },
        Err(error) => Err(error),
    };
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            problems.push(Problem::new(place, unreadable(&error)));
            return None;
        }
    };
    let lines = Lines::of(&text);
    match DeTable::parse(&text) {
        Ok(table) => {
            let mut found = Vec::new();
            Checker { path, lines: &lines, problems: &mut found }.table("", "", table.get_ref());
            let more = found.len() > MAX_PROBLEMS;
            problems.extend(found.into_iter().take(MAX_PROBLEMS));
            if more {
                problems.push(Problem::new(place, "has more problems, which are not shown"));
            }
            let values = convert_table(table.get_ref());
            Some(Document { values, text })
        }
        Err(error) => {
            let line = error.span().map(|span| lines.number(span.start));
            let place = line.map_or(place.clone(), |line| format!("{place}:{line}"));
            problems.push(Problem::new(place, format!("not valid TOML: {}", error.message())));
            None
        }
    }
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::FileTooLarge => {
            "the file is larger than 1 MiB, so it is no configuration of this agent".to_owned()
        }
        io::ErrorKind::InvalidInput => format!("the file cannot be read: {error}"),
        _ => format!("the file cannot be read: {error}; check that it exists, its owner and its mode"),
    }
}

/// Where the lines of a file begin. Found once: a file may have thousands of keys.
struct Lines {
    /// The offsets of the line breaks.
    breaks: Vec<usize>,
}

impl Lines {
    fn of(text: &str) -> Self {
        Self { breaks: text.match_indices('\n').map(|(at, _)| at).collect() }
    }

    /// The number of the line with this offset; the first is 1.
    fn number(&self, offset: usize) -> usize {
        self.breaks.partition_point(|at| *at < offset) + 1
    }
}

/// Checks the keys and types of one file against the schema.
struct Checker<'a> {
    path: &'a Path,
    lines: &'a Lines,
    problems: &'a mut Vec<Problem>,
}

impl Checker<'_> {
    /// `prefix` is the table's path in the schema, and `shown` its path in the file.
    fn table(&mut self, prefix: &str, shown: &str, table: &DeTable<'_>) {
        let join = |a: &str, b: &str| if a.is_empty() { b.to_owned() } else { format!("{a}.{b}") };
        for (name, value) in table {
            if self.is_full() {
                return;
            }
            let known = join(prefix, name.get_ref());
            let written = join(shown, name.get_ref());
            let line = self.lines.number(name.span().start);
            let place = format!("{}:{line}", self.path.display());
            if let Some(key) = schema::find(&known) {
                if !fits(key.kind, value.get_ref()) {
                    let message = format!("{written} must be {}", key.kind.expected());
                    self.problems.push(Problem::new(place, message));
                }
            } else if known == schema::DECRYPT_ONLY {
                self.decrypt_only(&place, value.get_ref());
            } else if schema::is_table(&known) {
                match value.get_ref() {
                    DeValue::Table(inner) => self.table(&known, &written, inner),
                    _ => self
                        .problems
                        .push(Problem::new(place, format!("{written} must be a table: [{written}]"))),
                }
            } else {
                self.problems.push(Problem::new(place, unknown_key(&written, &known)));
            }
        }
    }

    /// Whether enough problems were found. The search for similar names takes a while for each.
    fn is_full(&self) -> bool {
        self.problems.len() > MAX_PROBLEMS
    }

    fn decrypt_only(&mut self, place: &str, value: &DeValue<'_>) {
        let DeValue::Array(entries) = value else {
            let message = "decrypt_only must be a list of tables: [[decrypt_only]]";
            self.problems.push(Problem::new(place, message));
            return;
        };
        if entries.len() > MAX_DECRYPT_ONLY {
            let count = entries.len();
            let message = format!(
                "decrypt_only has {count} entries; the limit is {MAX_DECRYPT_ONLY}. Keep those whose key_id still is in etcd: kms-plugin verify-etcd counts them"
            );
            self.problems.push(Problem::new(place, message));
            return;
        }
        for entry in entries {
            let DeValue::Table(table) = entry.get_ref() else {
                self.problems.push(Problem::new(place, "each decrypt_only entry must be a table"));
                continue;
            };
            for (name, value) in table {
                let line = self.lines.number(name.span().start);
                let place = format!("{}:{line}", self.path.display());
                match (name.get_ref().as_ref(), value.get_ref()) {
                    (schema::DECRYPT_ONLY_NAME, DeValue::String(_)) => {}
                    ("vault", DeValue::Table(inner)) => self.table("vault", "decrypt_only.vault", inner),
                    (other, _) => self.problems.push(Problem::new(
                        place,
                        format!("decrypt_only.{other} is unknown or has the wrong type; an entry has `name = \"…\"` and a table [decrypt_only.vault]"),
                    )),
                }
            }
        }
    }
}

fn unknown_key(written: &str, path: &str) -> String {
    match schema::nearest(path) {
        Some(near) => format!("unknown key {written}; did you mean {near}?"),
        None => format!("unknown key {written}; `kms-plugin config --keys` lists all keys"),
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
        // No key has these types, and the checker has refused them.
        DeValue::Float(_) | DeValue::Datetime(_) => Value::from(String::new()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn problem(path: &Path) -> String {
        let mut problems = Vec::new();
        let _values = read(path, &mut problems);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.remove(0).message
    }

    #[test]
    fn what_is_no_text_file_of_a_configuration_s_size_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(problem(&path), "the file cannot be read: it is not a regular file");
        std::fs::remove_file(&path).unwrap();
        assert!(problem(&path).contains("check that it exists"));
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(problem(&path), "the file is not UTF-8 text");
        std::fs::write(&path, vec![b'#'; 1024 * 1024 + 1]).unwrap();
        assert!(problem(&path).contains("larger than 1 MiB"));
    }

    #[test]
    fn a_misspelt_key_or_table_gets_a_suggestion() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        for (text, suggestion) in [
            ("[local_kek]\nenabledd = true\n", "local_kek.enabled?"),
            ("[local_kek]\nmaxoffline = \"1h\"\n", "local_kek.max_offline?"),
            ("[local_kekk]\nenabled = true\n", "local_kek?"),
            ("[localkek]\n", "local_kek?"),
            ("[vault.trnsit]\n", "vault.transit?"),
            ("[[decrypt_onyl]]\n", "decrypt_only?"),
        ] {
            std::fs::write(&path, text).unwrap();
            let problem = problem(&path);
            assert!(problem.ends_with(&format!("did you mean {suggestion}")), "{text}: {problem}");
        }
    }
}
