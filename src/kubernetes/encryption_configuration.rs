//! Reads kube-apiserver's EncryptionConfiguration: its resources and KMS providers.
//!
//! Must not keep or show the keys of other providers: the file may hold them in clear.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::files;

/// Largest file that is read, in bytes: the limit of an object in Kubernetes.
const MAX_FILE: u64 = 1024 * 1024;

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    resources: Vec<Rule>,
}

/// Resources and their providers. The API server writes with the first provider, and reads with all of them.
#[derive(Deserialize)]
pub(crate) struct Rule {
    #[serde(default)]
    pub resources: Vec<String>,
    #[serde(default)]
    pub providers: Vec<Provider>,
}

#[derive(Deserialize)]
pub(crate) struct Provider {
    pub kms: Option<Kms>,
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kms {
    pub api_version: Option<String>,
    #[serde(default)]
    pub endpoint: String,
    /// As written; [`super::duration::parse`] reads it.
    pub timeout: Option<Value>,
}

impl Provider {
    /// Its kind: `kms`, `aescbc`, `identity` and others.
    pub(crate) fn name(&self) -> &str {
        match self.kms {
            Some(_) => "kms",
            None => self.others.keys().next().map_or("another provider", String::as_str),
        }
    }
}

/// Why a file cannot be used. The text is written after the file's name, and quotes nothing of the file's content.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncryptionConfigError {
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("is larger than 1 MiB, so it is not an EncryptionConfiguration")]
    TooLarge,
    #[error("is not valid YAML, or not an EncryptionConfiguration: see line {line}")]
    Invalid { line: usize },
    #[error("cannot be used: its kind is not EncryptionConfiguration")]
    OtherKind,
}

/// Reads the rules of a file.
///
/// # Errors
/// The file cannot be read, is too large, or is not an EncryptionConfiguration.
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
/// The text is not an EncryptionConfiguration.
pub(super) fn parse(text: &str) -> Result<Vec<Rule>, EncryptionConfigError> {
    // The parser's own message may quote the content: only the line is taken from it.
    let document: Document = yaml_serde::from_str(text).map_err(|error| EncryptionConfigError::Invalid {
        line: error.location().map_or(0, |location| location.line()),
    })?;
    match document.kind.as_str() {
        "EncryptionConfiguration" => Ok(document.resources),
        _ => Err(EncryptionConfigError::OtherKind),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_error_holds_nothing_of_the_file() {
        let head = "kind: EncryptionConfiguration\nresources:\n";
        for text in [
            format!("{head}- providers: s3cr3t\n"),
            format!("{head}- providers: [{{ kms: s3cr3t }}]\n"),
            "s3cr3t".to_owned(),
            "s3cr3t: [".to_owned(),
            "kind: s3cr3t\n".to_owned(),
        ] {
            let error = parse(&text).map(drop).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let error = read(directory.path()).map(drop).unwrap_err();
        assert_eq!(error.to_string(), "cannot be read: it is a directory");
        let large = directory.path().join("large");
        std::fs::write(&large, vec![b'#'; 1024 * 1024 + 1]).unwrap();
        assert!(matches!(read(&large), Err(EncryptionConfigError::TooLarge)));
    }
}
