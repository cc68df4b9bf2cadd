//! A real kube-apiserver, and a client of its own that speaks to it as kubectl would.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::StreamExt as _;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::etcd::Etcd;
use crate::support::pki::Pki;
use crate::support::{PATIENCE, eventually};

/// The namespace of all test objects.
pub const NAMESPACE: &str = "e2e";
const TOKEN: &str = "a-token-of-the-tests";

/// A running API server.
pub struct ApiServer {
    child: Child,
    directory: TempDir,
    pki: Pki,
    etcd: String,
    /// Further flags.
    flags: &'static [&'static str],
    pub client: Client,
}

/// A client of one API server, for as long as it runs.
#[derive(Clone)]
pub struct Client {
    base: String,
    http: reqwest::Client,
}

/// What a request was answered with.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

impl ApiServer {
    /// One that is ready, with the tests' namespace made.
    pub async fn ready(etcd: &Etcd, encryption: &str) -> Self {
        Self::ready_with(etcd, encryption, &[]).await
    }

    /// The same with further flags.
    pub async fn ready_with(etcd: &Etcd, encryption: &str, flags: &'static [&'static str]) -> Self {
        let server = Self::start_with(etcd, encryption, flags).await;
        server.wait_ready().await;
        let namespace = json!({ "metadata": { "name": NAMESPACE } });
        let made = server.client.call(Method::POST, "/api/v1/namespaces", &namespace).await.unwrap();
        assert!([201, 409].contains(&made.status), "{made:?}");
        server
    }

    /// One that answers, and may not be ready.
    pub async fn start(etcd: &Etcd, encryption: &str) -> Self {
        Self::start_with(etcd, encryption, &[]).await
    }

    /// The same with further flags.
    pub async fn start_with(etcd: &Etcd, encryption: &str, flags: &'static [&'static str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Every API server's certificate has the second name.
        let pki = Pki::new(&["127.0.0.1", "kubernetes.default.svc"]);
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .tls_backend_preconfigured(pki.client_config())
            .build()
            .unwrap();
        let (child, base) = spawn(directory.path(), &pki, (etcd.endpoint(), free_port()), encryption, flags);
        let client = Client { base, http };
        let mut server = Self { child, directory, pki, etcd: etcd.endpoint().to_owned(), flags, client };
        server.wait_answers(encryption).await;
        server
    }

    /// Its address.
    pub fn address(&self) -> &str {
        &self.client.base
    }

    /// A kubeconfig of the user that may do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_of("admin", TOKEN)
    }

    /// A kubeconfig with this token.
    pub fn kubeconfig_of(&self, name: &str, token: &str) -> PathBuf {
        let file = self.directory.path().join(format!("kubeconfig-{name}"));
        let one = |kind: &str, value: Value| json!([{ "name": name, kind: value }]);
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": name,
            "clusters": one("cluster", json!({ "server": self.address(), "certificate-authority": self.pki.ca })),
            "users": one("user", json!({ "token": token })),
            "contexts": one("context", json!({ "cluster": name, "user": name })),
        });
        std::fs::write(&file, kubeconfig.to_string()).unwrap();
        file
    }

    /// Ends it at once, and starts it again with nothing in its memory; it answers, and may not be ready.
    pub async fn restart_cold(&mut self, encryption: &str) {
        self.kill();
        // At the same address, as on a node.
        let port = self.client.base.rsplit(':').next().and_then(|port| port.parse().ok());
        self.respawn(encryption, port.unwrap());
        self.wait_answers(encryption).await;
    }

    /// The same, and ready again: how long that took.
    pub async fn restart(&mut self, encryption: &str) -> Duration {
        let started = Instant::now();
        self.restart_cold(encryption).await;
        self.wait_ready().await;
        started.elapsed()
    }

    fn respawn(&mut self, encryption: &str, port: u16) {
        let (child, base) =
            spawn(self.directory.path(), &self.pki, (&self.etcd, port), encryption, self.flags);
        self.child = child;
        self.client.base = base;
    }

    /// Replaces the file that it runs with, and leaves the rest to it.
    pub fn replace_encryption(&self, encryption: &str) {
        let file = self.directory.path().join("encryption.yaml");
        let new = file.with_extension("new");
        std::fs::write(&new, encryption).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _gone = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Waits until requests are answered. When another process took the free port, another one is tried.
    async fn wait_answers(&mut self, encryption: &str) {
        let mut spawned = 1;
        let started = Instant::now();
        while self.client.get("/livez").await.is_err() {
            if self.child.try_wait().unwrap().is_some() {
                assert!(spawned < 5, "kube-apiserver does not start: {}", self.log());
                spawned += 1;
                self.respawn(encryption, free_port());
            }
            assert!(started.elapsed() < PATIENCE, "kube-apiserver does not answer: {}", self.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until `/readyz` is good.
    pub async fn wait_ready(&self) {
        eventually("readiness", async || {
            let answer = self.client.get("/readyz?verbose").await?;
            if answer.status == 200 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            Err(format!("{}\n{}", answer.text, self.log()))
        })
        .await;
    }

    /// Waits until the check of the KMS providers fails with all these words; its text.
    pub async fn kms_check_fails(&self, words: &[&str]) -> String {
        eventually("the check of the KMS providers", async || {
            let check = self.client.kms_check().await;
            if check.status == 500 && words.iter().all(|word| check.text.contains(word)) {
                return Ok(check.text.trim().to_owned());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            Err(format!("{check:?}"))
        })
        .await
    }

    /// The end of what it wrote.
    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Client {
    /// One request.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> Result<Answer, String> {
        self.call_as(method, path, body, "application/json", "application/json").await
    }

    /// The same with the types of the body and of the answer.
    pub async fn call_as(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        content_type: &str,
        accept: &str,
    ) -> Result<Answer, String> {
        let told = |error: reqwest::Error| format!("{error:?}");
        let mut request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(TOKEN);
        request = request.header("accept", accept);
        if !body.is_null() {
            request = request.header("content-type", content_type).body(body.to_string());
        }
        let answer = request.send().await.map_err(told)?;
        Ok(Answer { status: answer.status().as_u16(), text: answer.text().await.map_err(told)? })
    }

    pub async fn get(&self, path: &str) -> Result<Answer, String> {
        self.call(Method::GET, path, &Value::Null).await
    }

    /// Writes an object that holds one text, new or over an old one: `resource` is `secrets` or `configmaps`.
    pub async fn write(&self, resource: &str, name: &str, text: &str) -> Result<(), String> {
        let object = json!({ "metadata": { "name": name }, "data": { "text": encoded(resource, text) } });
        let path = collection(resource);
        let mut answer = self.call(Method::PUT, &format!("{path}/{name}"), &object).await?;
        if answer.status == 404 {
            answer = self.call(Method::POST, &path, &object).await?;
        }
        if answer.status < 300 { Ok(()) } else { Err(answer.text) }
    }

    /// Makes new objects, some at once.
    pub async fn write_new(&self, resource: &str, names: Vec<String>) {
        let path = collection(resource);
        futures_util::stream::iter(names)
            .map(async |name| {
                let object =
                    json!({ "metadata": { "name": name }, "data": { "text": encoded(resource, "text") } });
                let answer = self.call(Method::POST, &path, &object).await.unwrap();
                assert_eq!(answer.status, 201, "{answer:?}");
            })
            .buffer_unordered(16)
            .collect::<()>()
            .await;
    }

    /// The text of an object.
    pub async fn read(&self, resource: &str, name: &str) -> Result<String, String> {
        let answer = self.get(&format!("{}/{name}", collection(resource))).await?;
        if answer.status == 200 { Ok(text_of(resource, &answer.json())) } else { Err(answer.text) }
    }

    /// Every object of the tests' namespace, read from etcd.
    pub async fn list(&self, resource: &str) -> Result<Vec<Value>, String> {
        let answer = self.get(&collection(resource)).await?;
        if answer.status != 200 {
            return Err(answer.text);
        }
        Ok(answer.json()["items"].as_array().cloned().unwrap_or_default())
    }

    /// Replaces each object of all namespaces by itself: `kubectl get … -A -o json | kubectl replace -f -`.
    pub async fn rewrite(&self, resource: &str) -> usize {
        let all = self.get(&format!("/api/v1/{resource}")).await.unwrap();
        assert_eq!(all.status, 200, "{all:?}");
        let items = all.json()["items"].as_array().unwrap().clone();
        for item in &items {
            let metadata = &item["metadata"];
            let (namespace, name) =
                (metadata["namespace"].as_str().unwrap(), metadata["name"].as_str().unwrap());
            let path = format!("/api/v1/namespaces/{namespace}/{resource}/{name}");
            let answer = self.call(Method::PUT, &path, item).await.unwrap();
            // A conflict: somebody wrote it meanwhile, and so anew.
            assert!([200, 409].contains(&answer.status), "{answer:?}");
        }
        items.len()
    }

    /// What the check of the KMS providers alone says: the status code and the API server's words.
    pub async fn kms_check(&self) -> Answer {
        self.get("/readyz/kms-providers").await.unwrap()
    }

    /// Waits until what is written here lies in etcd under this key_id. `/readyz` is asked meanwhile, as a load
    /// balancer does: its check of the provider is what sees a new key_id between two polls of Status.
    pub async fn writes_under(&self, etcd: &Etcd, provider: &str, key_id: &str) {
        eventually("writes under the new key_id", async || {
            self.get("/readyz").await?;
            let now = format!("{:?}", Instant::now());
            self.write("secrets", "probe", &now).await?;
            let stored = etcd.stored(&format!("secrets/{NAMESPACE}/probe")).await;
            let found = stored.values().next().ok_or("nothing in etcd")?.key_id(provider).to_owned();
            if found == key_id {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            Err(format!("{found} instead of {key_id}"))
        })
        .await;
    }
}

fn collection(resource: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/{resource}")
}

fn encoded(resource: &str, text: &str) -> String {
    if resource == "secrets" { BASE64_STANDARD.encode(text) } else { text.to_owned() }
}

/// The text of an object as it was answered.
pub fn text_of(resource: &str, object: &Value) -> String {
    let text = object["data"]["text"].as_str().unwrap_or_default();
    if resource == "secrets" {
        String::from_utf8(BASE64_STANDARD.decode(text).unwrap()).unwrap()
    } else {
        text.to_owned()
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server on this etcd, at this port.
fn spawn(
    directory: &Path,
    pki: &Pki,
    (etcd, port): (&str, u16),
    encryption: &str,
    flags: &[&str],
) -> (Child, String) {
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("log")).unwrap();
    let flag = |name: &str, value: &dyn std::fmt::Display| format!("--{name}={value}");
    // The roles of RBAC cost each start some seconds.
    let own_mode = flags.iter().any(|flag| flag.starts_with("--authorization-mode="));
    let mode = if own_mode { &[][..] } else { &["--authorization-mode=AlwaysAllow"] };
    let child = Command::new(crate::path_of("KMS_E2E_APISERVER"))
        .args(mode)
        .arg(flag("etcd-servers", &etcd))
        .arg(flag("encryption-provider-config", &write("encryption.yaml", encryption).display()))
        .arg(flag("bind-address", &"127.0.0.1"))
        // Without endpoints to keep, any address will do; the default route's is not there on every machine.
        .args(["--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none"])
        .arg(flag("secure-port", &port))
        .arg(flag("tls-cert-file", &pki.server_cert.display()))
        .arg(flag("tls-private-key-file", &pki.server_key.display()))
        .arg(flag("cert-dir", &directory.display()))
        .args(["--service-account-issuer=https://e2e.example", "--service-cluster-ip-range=10.0.0.0/24"])
        .arg(flag("service-account-key-file", &pki.server_cert.display()))
        .arg(flag("service-account-signing-key-file", &pki.server_key.display()))
        .args(flags)
        .arg(flag(
            "token-auth-file",
            &write("tokens.csv", &format!("{TOKEN},admin,1,system:masters\n")).display(),
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    (child, format!("https://127.0.0.1:{port}"))
}
