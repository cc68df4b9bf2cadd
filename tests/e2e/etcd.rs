//! A real etcd of a test's own, and what lies in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost::Message as _;
use serde_json::{Value, json};

use crate::support;
use crate::support::etcd::EncryptedObject;
use crate::support::tools;

/// What kube-apiserver writes before a value that a KMS v2 provider wrapped; the provider's name follows.
const KMS_PREFIX: &str = "k8s:enc:kms:v2:";

/// How a value lies in etcd.
#[derive(Debug, PartialEq)]
pub enum Stored {
    /// Wrapped by the KMS v2 provider of this name.
    Kms { provider: String, object: EncryptedObject },
    /// Encrypted by a key in the API server's configuration.
    AesCbc,
    /// In clear.
    Clear,
}

impl Stored {
    fn of(value: &[u8]) -> Self {
        if let Some(rest) = value.strip_prefix(KMS_PREFIX.as_bytes()) {
            let colon = rest.iter().position(|byte| *byte == b':').unwrap();
            let provider = String::from_utf8(rest[..colon].to_vec()).unwrap();
            return Self::Kms { provider, object: EncryptedObject::decode(&rest[colon + 1..]).unwrap() };
        }
        if value.starts_with(b"k8s:enc:aescbc:v1:") { Self::AesCbc } else { Self::Clear }
    }

    fn object(&self, name: &str) -> &EncryptedObject {
        match self {
            Self::Kms { provider, object } if provider == name => object,
            other => panic!("not wrapped by {name}: {other:?}"),
        }
    }

    /// The key_id of a value that this provider wrapped.
    pub fn key_id(&self, provider: &str) -> &str {
        &self.object(provider).key_id
    }

    /// The wrapped DEK seed of a value that this provider wrapped.
    pub fn seed(&self, provider: &str) -> Vec<u8> {
        self.object(provider).encrypted_dek_source.clone()
    }
}

/// A running etcd that an API server writes to.
pub struct Etcd(support::etcd::Etcd);

impl Etcd {
    /// An empty one.
    pub async fn start() -> Self {
        Self(support::etcd::Etcd::start().await)
    }

    pub fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    /// Every value below `/registry/<prefix>`, by its key.
    pub async fn below(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let start = format!("/registry/{prefix}");
        let mut end = start.clone().into_bytes();
        *end.last_mut().unwrap() += 1;
        let range =
            json!({ "key": BASE64_STANDARD.encode(&start), "range_end": BASE64_STANDARD.encode(end) });
        let answer = self.0.post("kv/range", &range).await;
        let bytes = |value: &Value| BASE64_STANDARD.decode(value.as_str().unwrap_or_default()).unwrap();
        let found = answer["kvs"].as_array().cloned().unwrap_or_default();
        found.iter().map(|kv| (String::from_utf8(bytes(&kv["key"])).unwrap(), bytes(&kv["value"]))).collect()
    }

    /// How every value below `/registry/<prefix>` is stored.
    pub async fn stored(&self, prefix: &str) -> BTreeMap<String, Stored> {
        self.below(prefix).await.into_iter().map(|(key, value)| (key, Stored::of(&value))).collect()
    }

    /// The key_ids of everything below, all of which this provider must have wrapped, with their numbers.
    pub async fn key_ids(&self, prefix: &str, provider: &str) -> BTreeMap<String, usize> {
        let mut ids = BTreeMap::new();
        for stored in self.stored(prefix).await.values() {
            *ids.entry(stored.key_id(provider).to_owned()).or_default() += 1;
        }
        ids
    }

    /// Whether a file of etcd's holds these bytes: its database, its log, its history.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        let mut left = vec![self.0.directory().join("data")];
        while let Some(path) = left.pop() {
            if path.is_dir() {
                left.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
            } else if std::fs::read(&path).unwrap().windows(bytes.len()).any(|window| window == bytes) {
                return true;
            }
        }
        false
    }

    /// Writes a value as it is.
    pub fn put(&self, key: &str, value: &[u8]) {
        self.0.put(key, value);
    }

    /// `etcdctl snapshot save`.
    pub fn save(&self) -> PathBuf {
        let file = self.0.directory().join("snapshot.db");
        self.0.get(&["snapshot", "save", &file.display().to_string()]);
        file
    }

    /// Ends the server, restores the snapshot in the place of its data, and starts it again at the same address.
    pub async fn restore(&mut self, snapshot: &Path) {
        self.0
            .restart(|directory| {
                let data = directory.join("data");
                std::fs::remove_dir_all(&data).unwrap();
                // etcd 3.6 has it in etcdutl alone, 3.4 in etcdctl alone.
                let tool = tools::find("etcdutl").unwrap_or_else(|| tools::etcd("etcdctl"));
                let mut command = Command::new(tool);
                command.args(["snapshot", "restore"]).arg(snapshot).arg("--data-dir").arg(data);
                let output = command.env("ETCDCTL_API", "3").output().unwrap();
                assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
            })
            .await;
    }
}
