//! A real etcd of a test's own, and what lies in it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost::Message as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::pki::Pki;
use crate::support::{PATIENCE, tools};

/// What kube-apiserver writes before a value that a KMS v2 provider wrapped; the provider's name follows.
const KMS_PREFIX: &str = "k8s:enc:kms:v2:";

/// A value as the API server's KMS v2 transformer stores it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    pub wrapped_seed: Vec<u8>,
}

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
        self.object(provider).wrapped_seed.clone()
    }
}

/// A running etcd.
pub struct Etcd {
    child: Child,
    directory: TempDir,
    pub address: String,
    http: reqwest::Client,
}

impl Etcd {
    /// An empty one.
    pub async fn start() -> Self {
        // Another process may take a free port before etcd does: then another one is tried.
        for _ in 0..5 {
            let directory = directory();
            let address = free_address();
            let child = spawn(directory.path(), &address);
            let mut etcd = Self { child, directory, address, http: http() };
            if etcd.wait_up().await.is_some() {
                return etcd;
            }
        }
        panic!("etcd did not start");
    }

    async fn wait_up(&mut self) -> Option<()> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if self.child.try_wait().unwrap().is_some() {
                return None;
            }
            if let Ok(answer) = self.http.get(format!("{}/health", self.address)).send().await
                && answer.text().await.is_ok_and(|text| text.contains("true"))
            {
                return Some(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("etcd does not answer");
    }

    /// Every value below `/registry/<prefix>`, by its key.
    pub async fn below(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let start = format!("/registry/{prefix}");
        let mut end = start.clone().into_bytes();
        *end.last_mut().unwrap() += 1;
        let range =
            json!({ "key": BASE64_STANDARD.encode(&start), "range_end": BASE64_STANDARD.encode(end) });
        let answer = self
            .http
            .post(format!("{}/v3/kv/range", self.address))
            .body(range.to_string())
            .send()
            .await
            .unwrap();
        let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
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
        let mut left = vec![data(self.directory.path())];
        while let Some(path) = left.pop() {
            if path.is_dir() {
                left.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
            } else if std::fs::read(&path).unwrap().windows(bytes.len()).any(|window| window == bytes) {
                return true;
            }
        }
        false
    }

    /// `etcdctl snapshot save`.
    pub fn save(&self) -> PathBuf {
        let file = self.directory.path().join("snapshot.db");
        control("etcdctl", &["--endpoints", &self.address, "snapshot", "save", &file.display().to_string()]);
        file
    }

    /// Ends the server, restores the snapshot in the place of its data, and starts it again at the same address.
    pub async fn restore(&mut self, snapshot: &Path) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let directory = data(self.directory.path());
        std::fs::remove_dir_all(&directory).unwrap();
        // etcd 3.6 has it in etcdutl alone, 3.4 in etcdctl alone.
        let tool = if tools::on_path("etcdutl").is_some() { "etcdutl" } else { "etcdctl" };
        let (data, snapshot) = (directory.display().to_string(), snapshot.display().to_string());
        control(tool, &["snapshot", "restore", &snapshot, "--data-dir", &data]);
        self.child = spawn(self.directory.path(), &self.address);
        self.wait_up().await.expect("etcd starts on what was restored");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// In memory where it can be: each write is synced, and on a disk that many share a test would measure the disk.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// A client for plain HTTP.
fn http() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .tls_backend_preconfigured(Pki::no_tls())
        .build()
        .unwrap()
}

fn free_address() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

fn control(name: &str, arguments: &[&str]) {
    let output = Command::new(name).args(arguments).env("ETCDCTL_API", "3").output().unwrap();
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn spawn(directory: &Path, address: &str) -> Child {
    let peer = free_address();
    let log = std::fs::File::create(directory.join("log")).unwrap();
    Command::new("etcd")
        .args([
            "--data-dir",
            &data(directory).display().to_string(),
            "--logger",
            "zap",
            "--log-level",
            "warn",
        ])
        .args(["--listen-client-urls", address, "--advertise-client-urls", address])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}
