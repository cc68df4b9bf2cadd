//! Checks of values that several tables share: durations, counts, choices, paths. Collects every problem.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::defaults::{self, parse_duration};
use super::problem::{ConfigError, Problem};
use super::raw::Merged;

/// Longest socket path, in bytes. The kernel allows 107 (unix(7)). The agent binds a socket under a temporary name
/// that is 7 bytes longer.
const MAX_SOCKET_PATH: usize = 100;

/// Collects the problems, so that one edit can correct them all.
pub(super) struct Validator<'a> {
    merged: &'a Merged,
    problems: Vec<Problem>,
}

impl<'a> Validator<'a> {
    pub(super) fn new(merged: &'a Merged) -> Self {
        Self { merged, problems: Vec::new() }
    }

    /// Adds a problem of `key`, with the origin of its value.
    pub(super) fn problem(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push(Problem::of_key(self.merged, key, message.into()));
    }

    /// Whether a problem was found.
    pub(super) fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    /// The settings, or every problem that was found.
    pub(super) fn finish<T>(self, settings: T) -> Result<T, ConfigError> {
        if self.problems.is_empty() { Ok(settings) } else { Err(ConfigError { problems: self.problems }) }
    }

    /// A duration from `least` to `most`; both are in the notation of the configuration. Without `text`, the key's
    /// default.
    pub(super) fn duration(&mut self, key: &str, text: Option<&str>, least: &str, most: &str) -> Duration {
        let low = parse_duration(least).unwrap_or_default();
        let high = parse_duration(most).unwrap_or(Duration::MAX);
        match parse_duration(text.unwrap_or(defaults::text(key))) {
            Ok(duration) if (low..=high).contains(&duration) => duration,
            Ok(_) => {
                self.problem(key, format!("must be between {least} and {most}"));
                low
            }
            Err(error) => {
                self.problem(key, format!("must be a time with its unit, such as 90s or 1h: {error}"));
                low
            }
        }
    }

    /// A count within `range`. Without `number`, the key's default.
    pub(super) fn count(&mut self, key: &str, number: Option<i64>, range: RangeInclusive<usize>) -> usize {
        let default = defaults::count(key);
        let Some(number) = number else { return default };
        match usize::try_from(number) {
            Ok(number) if range.contains(&number) => number,
            _ => {
                self.problem(key, format!("must be between {} and {}", range.start(), range.end()));
                default
            }
        }
    }

    /// One of several words. Without `text`, the key's default.
    pub(super) fn choice(&mut self, key: &str, text: Option<&str>, words: &[&str]) -> String {
        let default = defaults::text(key);
        let text = text.unwrap_or(default);
        if words.contains(&text) {
            return text.to_owned();
        }
        self.problem(key, format!("{text:?} is not one of {}", words.join(", ")));
        default.to_owned()
    }

    /// The path of the KMS socket, with or without `unix://`.
    pub(super) fn socket_path(&mut self, text: &str) -> PathBuf {
        let key = "server.socket";
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if path.trim_start_matches('/').starts_with('@') || path.starts_with('@') {
            self.problem(
                key,
                "an abstract socket (@name) has no owner and no mode, so any process could call it; use a path",
            );
        } else if !path.starts_with('/') {
            self.problem(key, format!("{text:?} is not an absolute path"));
        } else if path.len() > MAX_SOCKET_PATH {
            self.problem(
                key,
                format!(
                    "the path has {} bytes; it may have {MAX_SOCKET_PATH}, because the kernel limits the paths of sockets",
                    path.len()
                ),
            );
        }
        PathBuf::from(path)
    }
}
