//! A real etcd of a test's own, and etcdctl for it.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::pki::Pki;
use super::{PATIENCE, eventually, tools};

/// Most writes in one transaction: etcd's own bound.
const TRANSACTION: usize = 128;

/// `EncryptedObject` of k8s.io/apiserver's kmsv2, whole.
#[derive(Clone, PartialEq, Message)]
pub struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    pub encrypted_data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    pub encrypted_dek_source: Vec<u8>,
    #[prost(map = "string, bytes", tag = "4")]
    pub annotations: std::collections::HashMap<String, Vec<u8>>,
    #[prost(int32, tag = "5")]
    pub encrypted_dek_source_type: i32,
}

/// A running etcd.
pub struct Etcd {
    child: Child,
    directory: TempDir,
    #[allow(dead_code)] // the end-to-end tests restart it
    arguments: Vec<String>,
    pub endpoint: String,
    tls: Vec<String>,
    http: reqwest::Client,
}

impl Etcd {
    /// Without TLS.
    pub async fn start() -> Self {
        Self::with(None, &[]).await
    }

    /// With more flags; with TLS, where it wants client certificates.
    pub async fn with(pki: Option<&Pki>, flags: &[&str]) -> Self {
        // Another process may take the free port before etcd does: then another one is tried.
        for _ in 0..5 {
            let mut etcd = Self::prepare(pki, flags);
            if etcd.is_up().await {
                return etcd;
            }
        }
        panic!("etcd did not start");
    }

    fn prepare(pki: Option<&Pki>, flags: &[&str]) -> Self {
        // In memory where it can be: etcd syncs each write, and a disk that others use makes a test wait.
        let memory = Path::new("/dev/shm");
        let directory =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let free_port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let scheme = if pki.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://127.0.0.1:{}", free_port());
        let peer = format!("http://127.0.0.1:{}", free_port());
        let path = |path: &Path| path.display().to_string();
        let mut arguments = vec![
            format!("--listen-client-urls={endpoint}"),
            format!("--advertise-client-urls={endpoint}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            format!("--data-dir={}", path(&directory.path().join("data"))),
            "--logger=zap".to_owned(),
        ];
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let mut tls = Vec::new();
        if let Some(pki) = pki {
            arguments.extend([
                "--client-cert-auth".to_owned(),
                format!("--trusted-ca-file={}", path(&pki.ca)),
                format!("--cert-file={}", path(&pki.server_cert)),
                format!("--key-file={}", path(&pki.server_key)),
            ]);
            for (flag, file) in
                [("--cacert", &pki.ca), ("--cert", &pki.client_cert), ("--key", &pki.client_key)]
            {
                tls.extend([flag.to_owned(), path(file)]);
            }
        }
        let child = spawn(directory.path(), &arguments);
        Self { child, directory, arguments, endpoint, tls, http: http() }
    }

    /// The directory of its data, and of what a test puts beside it.
    #[allow(dead_code)] // for the end-to-end tests
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Ends it, and starts it again at the same endpoint after `between`.
    #[allow(dead_code)] // for the end-to-end tests
    pub async fn restart(&mut self, between: impl FnOnce(&Path)) {
        self.stop();
        between(self.directory.path());
        self.child = spawn(self.directory.path(), &self.arguments);
        // The old client holds connections to the process that has ended.
        self.http = http();
        assert!(self.is_up().await, "etcd does not start again");
    }

    fn stop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }

    /// Waits until it answers; false when it ended instead.
    async fn is_up(&mut self) -> bool {
        eventually("etcd", async || {
            if self.child.try_wait().unwrap().is_some() {
                return Ok(false);
            }
            let health = self.ctl(&["endpoint", "health"]).output().unwrap();
            let log = self.directory.path().join("log");
            if health.status.success() { Ok(true) } else { Err(fs::read_to_string(log).unwrap()) }
        })
        .await
    }

    /// Endpoint and TLS as flags, for etcdctl and for verify-etcd.
    pub fn flags(&self, endpoint: &str) -> Vec<String> {
        [vec![endpoint.to_owned(), self.endpoint.clone()], self.tls.clone()].concat()
    }

    /// etcdctl for this etcd.
    pub fn ctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(tools::etcd("etcdctl"));
        command.env("ETCDCTL_API", "3").args(self.flags("--endpoints")).args(arguments);
        command
    }

    /// What etcdctl writes.
    pub fn get(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.ctl(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Writes one value.
    pub fn put(&self, key: &str, value: &[u8]) {
        let mut child = self.ctl(&["put", key]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(value).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// Writes many values over the gateway.
    pub async fn put_all(&self, objects: impl Iterator<Item = (String, Vec<u8>)>) {
        let put = |(key, value): (String, Vec<u8>)| json!({ "requestPut": { "key": STANDARD.encode(key), "value": STANDARD.encode(value) } });
        let puts: Vec<Value> = objects.map(put).collect();
        for chunk in puts.chunks(TRANSACTION) {
            self.post("kv/txn", &json!({ "success": chunk })).await;
        }
    }

    /// A request to the gateway that must succeed.
    pub async fn post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}/v3/{path}", self.endpoint);
        let response = self.http.post(url).body(body.to_string()).send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.stop();
    }
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

fn spawn(directory: &Path, arguments: &[String]) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(directory.join("log")).unwrap();
    Command::new(tools::etcd("etcd"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
