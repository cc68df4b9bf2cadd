//! Reads kube-apiserver's EncryptionConfiguration as kube-apiserver does: the same files are accepted, the same refused.
//!
//! Compared with the loaders of `k8s.io/apiserver` 1.34, 1.36 and 1.37, which accept the same files
//! (`encryption_configuration_tests.rs`). Must not keep or show the keys of other providers: the file may hold them in
//! clear.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::document::{self, Node, Value};
use super::encryption_configuration_rules as rules;
use super::{duration, encryption_configuration_shape as shape};
use crate::files;

/// Largest file that is read, in bytes: the limit of an object in Kubernetes.
const MAX_FILE: u64 = 1024 * 1024;

/// Resources and their providers. The API server writes with the first provider, and reads with all of them.
#[derive(Debug)]
pub(crate) struct Rule {
    pub resources: Vec<String>,
    pub providers: Vec<Provider>,
}

#[derive(Debug)]
pub(crate) enum Provider {
    Kms(Kms),
    AesGcm(Vec<Key>),
    AesCbc(Vec<Key>),
    Secretbox(Vec<Key>),
    Identity,
}

#[derive(Debug)]
pub(crate) struct Kms {
    pub name: String,
    pub endpoint: String,
    /// The longest time for one call.
    pub timeout: Duration,
}

/// A key of another provider, without its secret.
#[derive(Debug)]
pub(crate) struct Key {
    pub name: String,
    /// The length of the secret in bytes; `None` when it is not base64.
    pub(super) length: Option<usize>,
}

impl Provider {
    /// Its kind: `kms`, `aescbc`, `identity` and others.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Kms(_) => "kms",
            Self::AesGcm(_) => "aesgcm",
            Self::AesCbc(_) => "aescbc",
            Self::Secretbox(_) => "secretbox",
            Self::Identity => "identity",
        }
    }

    pub(crate) fn kms(&self) -> Option<&Kms> {
        if let Self::Kms(kms) = self { Some(kms) } else { None }
    }
}

/// Something for which kube-apiserver refuses a file. Holds no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Such as `resources[0].providers[1].kms.name`.
    pub place: String,
    pub what: String,
    pub remedy: &'static str,
}

/// Why a file cannot be used. The text is written after the file's name, and shows no key of the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncryptionConfigError {
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("is larger than 1 MiB, so it is not an EncryptionConfiguration")]
    TooLarge,
    #[error("is empty")]
    Empty,
    #[error("{why}: see line {line}")]
    Invalid { line: usize, why: &'static str },
    #[error("cannot be used: its kind is not EncryptionConfiguration of apiserver.config.k8s.io/v1")]
    OtherKind,
    #[error("is refused by kube-apiserver: {}", first(.0))]
    Refused(Vec<Problem>),
}

fn first(problems: &[Problem]) -> String {
    let further = problems.len().saturating_sub(1);
    let more = if further > 0 { format!(", and {further} more") } else { String::new() };
    problems.first().map(|one| format!("{}: {}{more}", one.place, one.what)).unwrap_or_default()
}

/// Reads the rules of a file.
///
/// # Errors
/// The file cannot be read, is too large, or kube-apiserver does not load it.
pub(crate) fn read(file: &Path) -> Result<Vec<Rule>, EncryptionConfigError> {
    let text =
        files::read_argument(file, MAX_FILE).and_then(files::into_text).map_err(|error| {
            match error.kind() {
                io::ErrorKind::FileTooLarge => EncryptionConfigError::TooLarge,
                _ => EncryptionConfigError::Unreadable(error),
            }
        })?;
    parse(&text)
}

/// Reads the rules of a text.
///
/// # Errors
/// kube-apiserver does not load the text.
pub(super) fn parse(text: &str) -> Result<Vec<Rule>, EncryptionConfigError> {
    if text.is_empty() {
        return Err(EncryptionConfigError::Empty);
    }
    let document = document::parse(text)
        .map_err(|invalid| EncryptionConfigError::Invalid { line: invalid.line, why: invalid.why })?;
    if !is_kind(&document) {
        return Err(EncryptionConfigError::OtherKind);
    }
    let rules = shape::rules(&document).map_err(|problem| EncryptionConfigError::Refused(vec![problem]))?;
    let problems = rules::problems(&rules);
    if problems.is_empty() { Ok(rules::usable(rules)) } else { Err(EncryptionConfigError::Refused(problems)) }
}

/// The current name of the kind, and an old one that the API server still accepts.
fn is_kind(document: &Node) -> bool {
    let Value::Map(entries) = &document.value else { return false };
    let text = |field: &str| {
        entries.iter().find_map(|(key, node)| match &node.value {
            Value::Text(text) if key == field => Some(text.as_str()),
            _ => None,
        })
    };
    matches!(
        (text("apiVersion"), text("kind")),
        (Some("apiserver.config.k8s.io/v1"), Some("EncryptionConfiguration"))
            | (Some("v1"), Some("EncryptionConfig"))
    )
}

/// kube-apiserver's own default for `timeout`.
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);

/// `timeout` as the loader reads it: a duration longer than zero.
pub(super) fn timeout(text: &str) -> Option<Duration> {
    duration::parse_text(text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
#[allow(clippy::print_stderr)] // says what was compared, and what was not
#[path = "encryption_configuration_tests.rs"]
mod tests;
