//! A real server of a test's own, OpenBao or HashiCorp Vault: started, initialised, unsealed, with an audit log that
//! counts.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::launch::Launch;
use super::pki::Pki;
use super::process::Process;
use super::product::Product;

/// The name of the Transit key in most tests.
pub const KEY: &str = "kms-key";

/// The policy of OpenShift's guide: nothing else may be needed.
pub fn policy(mount: &str, key: &str) -> String {
    format!(
        r#"path "{mount}/encrypt/{key}" {{ capabilities = ["update"] }}
           path "{mount}/decrypt/{key}" {{ capabilities = ["update"] }}
           path "{mount}/keys/{key}" {{ capabilities = ["read"] }}
           path "auth/token/lookup-self" {{ capabilities = ["read"] }}"#
    )
}

/// A server's directory. Data that must outlive the process is kept in memory where there is /dev/shm: raft syncs each
/// entry, and a busy disk would take too long.
fn directory(persistent: bool) -> TempDir {
    let memory = Path::new("/dev/shm");
    if persistent && memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// A running server.
pub struct Vault {
    pub(super) product: Product,
    pub(super) process: Process,
    pub(super) audit_log: PathBuf,
    pub address: String,
    pub(super) base: String,
    pub root: String,
    pub(super) unseal_key: String,
    pub(super) http: reqwest::Client,
}

impl Vault {
    /// A server without TLS, with Transit, the usual key, and AppRole. Its data is in memory.
    pub async fn start() -> Self {
        Self::start_product(Product::chosen()).await
    }

    /// The same for a test that needs this product, whichever was chosen.
    pub async fn start_product(product: Product) -> Self {
        Self::set_up(Self::any(product, None, false).await).await
    }

    /// The same, with data on disk: it can be killed and started again.
    pub async fn persistent() -> Self {
        Self::set_up(Self::any(Product::chosen(), None, true).await).await
    }

    async fn set_up(vault: Self) -> Self {
        vault.add_key_and_role().await;
        vault
    }

    /// The same, with TLS.
    pub async fn with_tls(pki: &Pki) -> Self {
        Self::set_up(Self::any(Product::chosen(), Some(pki), false).await).await
    }

    /// Transit, the usual key, its policy, and AppRole.
    pub async fn add_key_and_role(&self) {
        self.post("sys/mounts/transit", json!({ "type": "transit" })).await;
        self.post(&format!("transit/keys/{KEY}"), json!({})).await;
        self.put_policy("kms", &policy("transit", KEY)).await;
        self.post("sys/auth/approle", json!({ "type": "approle" })).await;
        self.approle("kms", json!({})).await;
    }

    async fn any(product: Product, pki: Option<&Pki>, persistent: bool) -> Self {
        // Another process may take the free port before the server does: then another one is tried.
        for _ in 0..5 {
            if let Some(vault) = Self::try_start(product, pki, persistent).await {
                return vault;
            }
        }
        panic!("{} did not start", product.name());
    }

    async fn try_start(product: Product, pki: Option<&Pki>, persistent: bool) -> Option<Self> {
        let directory = directory(persistent);
        let free_port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (port, cluster_port) = (free_port(), free_port());
        let storage = if persistent {
            let data = directory.path().join("data");
            fs::create_dir(&data).unwrap();
            format!(
                "storage \"raft\" {{ path = {data:?}\n node_id = \"one\" }}\ncluster_addr = \"http://127.0.0.1:{cluster_port}\"",
            )
        } else {
            "storage \"inmem\" {}".to_owned()
        };
        let mut vault = Self::launch(Launch {
            product,
            program: product.program(),
            network: None,
            pki,
            host: "127.0.0.1".to_owned(),
            port,
            storage,
            audit_log: directory.path().join("audit.log"),
            directory,
        })
        .await?;
        // Another process took the port in the meantime, and it is that one that answers.
        if vault.get("sys/init").await["initialized"] == true {
            return None;
        }
        vault.initialise().await;
        Some(vault)
    }

    /// One request with the root token; the status and the JSON.
    pub async fn request(&self, method: Method, path: &str, body: Value, namespace: &str) -> (u16, Value) {
        let request = self.prepared(method, path, body);
        let request =
            if namespace.is_empty() { request } else { request.header("x-vault-namespace", namespace) };
        sent(request).await.unwrap()
    }

    /// The same of a server that may be unreachable: waits this long at most.
    pub async fn try_request(
        &self,
        method: Method,
        path: &str,
        body: Value,
        within: Duration,
    ) -> Result<(u16, Value), String> {
        sent(self.prepared(method, path, body).timeout(within)).await.map_err(|error| format!("{error:?}"))
    }

    fn prepared(&self, method: Method, path: &str, body: Value) -> RequestBuilder {
        let mut request = self.http.request(method, format!("{}/v1/{path}", self.base));
        if !self.root.is_empty() {
            request = request.header("x-vault-token", &self.root);
        }
        if body.is_null() { request } else { request.body(body.to_string()) }
    }

    /// A request that must succeed.
    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.post_in("", path, body).await
    }

    /// The same in a namespace.
    pub async fn post_in(&self, namespace: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.request(Method::POST, path, body, namespace).await;
        assert!(status < 300, "POST {path}: {status} {answer}");
        answer
    }

    /// What a POST would have answered, behind a wrapping token.
    pub async fn wrapped(&self, path: &str) -> String {
        let request = self.http.post(format!("{}/v1/{path}", self.base));
        let request = request.header("x-vault-token", &self.root).header("x-vault-wrap-ttl", "5m");
        let answer = request.body("{}").send().await.unwrap().text().await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["wrap_info"]["token"].as_str().unwrap().to_owned()
    }

    /// A read that must succeed.
    pub async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.request(Method::GET, path, Value::Null, "").await;
        assert!(status < 300, "GET {path}: {status} {answer}");
        answer
    }

    pub async fn delete(&self, path: &str) {
        let (status, answer) = self.request(Method::DELETE, path, Value::Null, "").await;
        assert!(status < 300, "DELETE {path}: {status} {answer}");
    }

    pub async fn put_policy(&self, name: &str, text: &str) {
        self.post(&format!("sys/policies/acl/{name}"), json!({ "policy": text })).await;
    }

    /// An AppRole with the policy `kms` alone, its ids in files.
    pub async fn approle(&self, role: &str, extra: Value) {
        let mut body = json!({
            "token_policies": "kms", "token_no_default_policy": true, "token_ttl": "1h", "token_max_ttl": "4h",
        });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        self.post(&format!("auth/approle/role/{role}"), body).await;
        let role_id = self.get(&format!("auth/approle/role/{role}/role-id")).await;
        fs::write(self.file("role-id"), role_id["data"]["role_id"].as_str().unwrap()).unwrap();
        self.new_secret_id(role).await;
    }

    /// Writes a fresh secret-id into its file.
    pub async fn new_secret_id(&self, role: &str) {
        let secret_id = self.post(&format!("auth/approle/role/{role}/secret-id"), json!({})).await;
        write_secret(&self.file("secret-id"), secret_id["data"]["secret_id"].as_str().unwrap());
    }

    /// A file beside the server's data.
    pub fn file(&self, name: &str) -> PathBuf {
        self.process.directory.path().join(name)
    }

    /// The server's program, which has other commands, too.
    pub fn program(&self) -> PathBuf {
        self.process.program.clone()
    }

    /// What the process has written.
    pub fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap()
    }

    /// `[vault]` of a configuration that logs in by AppRole.
    pub fn vault_config(&self) -> String {
        format!("[vault]\naddresses = [{:?}]\n{}", self.address, self.key_and_auth("vault"))
    }

    /// The tables below `[vault]`, for the usual key and AppRole.
    pub fn key_and_auth(&self, prefix: &str) -> String {
        format!(
            "[{prefix}.transit]\nkey = {KEY:?}\n[{prefix}.auth]\nmethod = \"approle\"\nrole_id_file = {:?}\nsecret_id_file = {:?}\n",
            self.file("role-id"),
            self.file("secret-id"),
        )
    }

    /// A `[[decrypt_only]]` entry for the usual key of this server.
    pub fn decrypt_only(&self, name: &str) -> String {
        format!(
            "[[decrypt_only]]\nname = {name:?}\n[decrypt_only.vault]\naddresses = [{:?}]\n{}",
            self.address,
            self.key_and_auth("decrypt_only.vault")
        )
    }

    /// Revokes every token that logins by AppRole gave out.
    pub async fn revoke_approle_tokens(&self) {
        self.request(Method::PUT, "sys/leases/revoke-prefix/auth/approle/login", json!({}), "").await;
    }

    pub async fn rotate(&self) {
        self.post(&format!("transit/keys/{KEY}/rotate"), json!({})).await;
    }

    /// Deletes the key and makes it anew, at least a second later: creation times count seconds.
    pub async fn replace_key(&self) {
        self.post(&format!("transit/keys/{KEY}/config"), json!({ "deletion_allowed": true })).await;
        self.delete(&format!("transit/keys/{KEY}")).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        self.post(&format!("transit/keys/{KEY}"), json!({})).await;
    }

    /// The audit log's requests by path, answered ones only, without the tests' own (root).
    pub fn audited(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.audit_log).unwrap_or_default();
        log.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|entry| entry["type"] == "response")
            .filter(|entry| {
                !entry["auth"]["policies"].as_array().is_some_and(|all| all.contains(&json!("root")))
            })
            .filter_map(|entry| Some(entry["request"]["path"].as_str()?.to_owned()))
            .collect()
    }

    /// How many audited requests went to a path with this beginning.
    pub fn count(&self, prefix: &str) -> usize {
        self.audited().iter().filter(|path| path.starts_with(prefix)).count()
    }
}

async fn sent(request: RequestBuilder) -> reqwest::Result<(u16, Value)> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    let text = response.text().await?;
    Ok((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
}

/// Writes a secret file as it should be: 0600.
pub fn write_secret(path: &std::path::Path, secret: &str) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(secret.as_bytes()).unwrap();
}
