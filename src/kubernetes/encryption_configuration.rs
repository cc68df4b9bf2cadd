//! kube-apiserver's EncryptionConfiguration, as far as commands look at it: never the keys of other providers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use zeroize::Zeroizing;

/// Largest file that is read, in bytes: what the API server's own object may have.
const MAX_FILE: u64 = 1024 * 1024;

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    resources: Vec<Rule>,
}

/// Resources, and the providers that read them; the first one writes.
#[derive(Deserialize)]
pub(crate) struct Rule {
    #[serde(default)]
    pub resources: Vec<String>,
    #[serde(default)]
    pub providers: Vec<Provider>,
}

/// One provider.
#[derive(Deserialize)]
pub(crate) struct Provider {
    pub kms: Option<Kms>,
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
}

/// A KMS provider.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kms {
    pub api_version: Option<String>,
    #[serde(default)]
    pub endpoint: String,
    pub timeout: Option<Value>,
}

impl Provider {
    /// Its kind: kms, aescbc, identity and such.
    pub(crate) fn name(&self) -> &str {
        match self.kms {
            Some(_) => "kms",
            None => self.others.keys().next().map_or("another provider", String::as_str),
        }
    }
}

/// Reads the rules of a file.
///
/// # Errors
/// What is wrong with it, without a word of its content: it may hold keys.
pub(crate) fn read(file: &Path) -> Result<Vec<Rule>, String> {
    let mut text = Zeroizing::new(String::new());
    let opened = File::open(file).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    opened.map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > MAX_FILE {
        return Err("is larger than 1 MiB: no EncryptionConfiguration".into());
    }
    let document: Document = yaml_serde::from_str(&text).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        format!("is not valid YAML, or no EncryptionConfiguration: see line {line}")
    })?;
    match document.kind.as_str() {
        "EncryptionConfiguration" => Ok(document.resources),
        _ => Err("is not one: its kind is not EncryptionConfiguration".into()),
    }
}
