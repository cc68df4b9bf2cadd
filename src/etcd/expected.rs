//! How each object should be stored, by EncryptionConfigurations: the first provider of its resource writes.
//!
//! A rule that names a resource wins over `*.group`, and that over `*.*`, as in the API server.

use super::key;
use super::value::{Stored, Transformer};
use crate::kubernetes::encryption_configuration::{Provider, Rule};

/// What writes an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// A KMS provider.
    Kms,
    /// The first key of another provider: its transformer, and the key's name.
    Key(Transformer, String),
    /// Stored in clear.
    Identity,
    /// The API server encrypts these objects with no configuration.
    Never,
}

/// Objects that the API server writes without an encryption provider, also under `*.*`: leases of API servers, and the
/// allocations of addresses and ports.
const NEVER: [&str; 3] = ["masterleases/", "peerserverleases/", "ranges/"];

/// The writers, by prefix in etcd.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    never: Vec<String>,
    /// Prefixes of resources before those of groups, in the order of the files.
    writers: Vec<(String, Writer)>,
    all: Option<Writer>,
}

impl Expected {
    /// Reads the rules of all files.
    ///
    /// # Errors
    /// A wildcard whose resources are not known here.
    pub(crate) fn new<'a>(rules: impl Iterator<Item = &'a Rule>, root: &str) -> Result<Self, String> {
        let root = root.trim_end_matches('/');
        let mut expected =
            Self { never: NEVER.iter().map(|path| format!("{root}/{path}")).collect(), ..Self::default() };
        let mut groups = Vec::new();
        for rule in rules {
            let writer = writer(rule.providers.first());
            for resource in &rule.resources {
                if resource == "*.*" {
                    expected.all.get_or_insert_with(|| writer.clone());
                    continue;
                }
                let prefixes = key::prefixes_of(resource, root).ok_or_else(|| resource.clone())?;
                let into = if resource.starts_with("*.") { &mut groups } else { &mut expected.writers };
                into.extend(prefixes.into_iter().map(|prefix| (prefix, writer.clone())));
            }
        }
        expected.writers.extend(groups);
        Ok(expected)
    }

    /// The prefixes of everything that a rule names.
    pub(crate) fn prefixes(&self, root: &str) -> Vec<String> {
        let mut prefixes: Vec<String> = self.writers.iter().map(|(prefix, _)| prefix.clone()).collect();
        if self.all.is_some() {
            prefixes.push(format!("{}/", root.trim_end_matches('/')));
        }
        prefixes
    }

    /// What should have written the object with this key; `None` when no rule names it.
    pub(crate) fn of(&self, key: &str) -> Option<&Writer> {
        if self.never.iter().any(|prefix| key.starts_with(prefix)) {
            return Some(&Writer::Never);
        }
        let named = self.writers.iter().find(|(prefix, _)| key.starts_with(prefix));
        named.map(|(_, writer)| writer).or(self.all.as_ref())
    }
}

fn writer(provider: Option<&Provider>) -> Writer {
    let key = |transformer, keys: &[crate::kubernetes::encryption_configuration::Key]| {
        Writer::Key(transformer, keys.first().map(|key| key.name.clone()).unwrap_or_default())
    };
    match provider {
        Some(Provider::Kms(_)) => Writer::Kms,
        Some(Provider::AesCbc(keys)) => key(Transformer::AesCbc, keys),
        Some(Provider::AesGcm(keys)) => key(Transformer::AesGcm, keys),
        Some(Provider::Secretbox(keys)) => key(Transformer::Secretbox, keys),
        Some(Provider::Identity) | None => Writer::Identity,
    }
}

impl Writer {
    /// Whether the object is as this writer writes it. `None` for KMS, where the key_id decides.
    pub(crate) fn wrote(&self, stored: &Stored) -> Option<bool> {
        match self {
            Self::Kms => None,
            Self::Never => Some(true),
            Self::Identity => Some(*stored == Stored::Plain),
            Self::Key(transformer, name) => {
                Some(matches!(stored, Stored::Other(other, key) if other == transformer && key == name))
            }
        }
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Kms => "kms".into(),
            Self::Never => "never encrypted".into(),
            Self::Identity => "plain".into(),
            Self::Key(transformer, name) => format!("{} key {name}", transformer.name()),
        }
    }
}
