//! Two API servers follow the EncryptionConfigurations that OpenShift's operators write, revision by revision, from
//! turning encryption on to leaving it. Clients read and write meanwhile.

use std::time::Instant;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::apiserver::ApiServer;
use crate::etcd::Etcd;
use crate::key_id_after;
use crate::support::agent::{Agent, QUICK, command};
use crate::support::eventually;
use crate::support::vault::Vault;
use crate::traffic::Traffic;

const RESOURCES: [&str; 2] = ["configmaps", "secrets"];
const OBJECTS: usize = 10;

/// One revision: its number, and its providers as `sequences.json` names them.
struct Revision {
    number: u64,
    providers: Vec<String>,
}

impl Revision {
    fn names_kms(&self) -> bool {
        self.providers.iter().any(|provider| provider.starts_with("kms"))
    }

    /// The whole file, for the plugin on this socket.
    fn configuration(&self, agent: &Agent) -> String {
        let provider = |provider: &String, resource: &str| {
            let (kind, name) = provider.split_once(' ').unwrap_or((provider, ""));
            match kind {
                "identity" => json!({ "identity": {} }),
                "kms" => json!({ "kms": {
                    "apiVersion": "v2", "name": format!("{name}_{resource}"), "timeout": "10s",
                    "endpoint": format!("unix://{}", agent.socket().display()),
                } }),
                _ => {
                    let secret = BASE64_STANDARD.encode([name.as_bytes()[0]; 32]);
                    json!({ kind: { "keys": [{ "name": name, "secret": secret }] } })
                }
            }
        };
        let rules = RESOURCES.map(|resource| {
            let providers: Vec<Value> = self.providers.iter().map(|one| provider(one, resource)).collect();
            json!({ "resources": [resource], "providers": providers })
        });
        json!({
            "kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", "resources": rules,
        })
        .to_string()
    }

    /// How a value of this resource begins when the first provider wrote it; `None` without encryption.
    fn prefix(&self, resource: &str) -> Option<String> {
        let (kind, name) = self.providers[0].split_once(' ')?;
        Some(match kind {
            "kms" => format!("k8s:enc:kms:v2:{name}_{resource}:"),
            _ => format!("k8s:enc:{kind}:v1:{name}:"),
        })
    }
}

/// The revisions of a sequence. The first state, revision 1, is without encryption.
fn revisions(name: &str) -> Vec<Revision> {
    let file: Value = serde_json::from_str(include_str!("sequences.json")).unwrap();
    let revisions = file["sequences"][name].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    revisions
        .iter()
        .map(|one| Revision {
            number: one["revision"].as_u64().unwrap(),
            providers: one["providers"].as_array().unwrap().iter().map(text).collect(),
        })
        .collect()
}

/// Two control plane nodes on one etcd.
struct Cluster {
    etcd: Etcd,
    vault: Vault,
    config: String,
    agents: [Agent; 2],
    servers: [ApiServer; 2],
}

impl Cluster {
    async fn start() -> Self {
        let (etcd, vault) = tokio::join!(Etcd::start(), Vault::start());
        let config = vault.vault_config() + QUICK;
        let (one, two) = tokio::join!(Agent::ready(&config), Agent::ready(&config));
        let plain = Revision { number: 1, providers: vec!["identity".into()] };
        let text = plain.configuration(&one);
        let first = ApiServer::ready(&etcd, &text).await;
        let servers = [first, ApiServer::ready(&etcd, &text).await];
        let cluster = Self { etcd, vault, config, agents: [one, two], servers };
        for resource in RESOURCES {
            for number in 0..OBJECTS {
                let name = format!("object-{number}");
                cluster.servers[0].client.write(resource, &name, &format!("text {number}")).await.unwrap();
            }
        }
        cluster
    }

    async fn all_readable(&self, when: &str) {
        for server in &self.servers {
            for resource in RESOURCES {
                for number in 0..OBJECTS {
                    let text = server.client.read(resource, &format!("object-{number}")).await;
                    assert_eq!(
                        text.unwrap_or_else(|error| panic!("{when}: {error}")),
                        format!("text {number}")
                    );
                }
            }
        }
    }

    /// Restarts one API server after the other with this revision, under traffic at the other one.
    async fn roll(&mut self, revision: &Revision) {
        for node in 0..2 {
            let traffic = Traffic::start(&[&self.servers[1 - node].client]).await;
            let text = revision.configuration(&self.agents[node]);
            self.servers[node].restart(&text).await;
            traffic.stop().await.none_failed(&format!("revision {}, node {node}", revision.number));
        }
    }

    /// `verify-etcd` with the configuration of the first node: the exit code, and what it said.
    fn verify_etcd(&self, revision: &Revision, arguments: &[&str]) -> (i32, String) {
        let agent = &self.agents[0];
        let file = agent.directory.path().join("in-use.yaml");
        std::fs::write(&file, revision.configuration(agent)).unwrap();
        let output = command()
            .args(["verify-etcd", "--endpoint", self.etcd.endpoint(), "--encryption-config"])
            .arg(file)
            .arg("--runtime-dir")
            .arg(agent.directory.path().join("run"))
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap(), text.into_owned())
    }

    /// Writes everything again, as the operator's migration does, and checks how it is stored then.
    async fn migrate(&self, revision: &Revision) {
        let (code, said) = self.verify_etcd(revision, &[]);
        assert_eq!(code, 1, "revision {} is not migrated yet: {said}", revision.number);
        for resource in RESOURCES {
            self.servers[0].client.rewrite(resource).await;
            let wanted = revision.prefix(resource);
            for (key, value) in self.etcd.below(&format!("{resource}/")).await {
                let prefix = String::from_utf8_lossy(&value[..value.len().min(60)]).into_owned();
                let right = match &wanted {
                    Some(wanted) => prefix.starts_with(wanted),
                    None => !prefix.starts_with("k8s:enc:"),
                };
                assert!(right, "revision {}: {key} begins with {prefix:?}", revision.number);
            }
        }
        let (code, said) = self.verify_etcd(revision, &[]);
        assert!(code == 0 && said.contains("finished: "), "revision {}: {code} {said}", revision.number);
    }

    /// A rotation of the Transit key, in the middle of a migration. The operators do nothing about it.
    async fn rotate(&self, provider: &str) {
        let before = self.agents[0].kms().await.status().await.unwrap().key_id;
        self.vault.rotate().await;
        for (agent, server) in self.agents.iter().zip(&self.servers) {
            let key_id = key_id_after(&before, agent).await;
            server.client.writes_under(&self.etcd, provider, &key_id).await;
        }
    }

    /// Follows a sequence to its end.
    async fn follow(&mut self, name: &str) -> Revision {
        let mut writer = "identity".to_owned();
        let mut last = None;
        for revision in revisions(name) {
            let started = Instant::now();
            self.roll(&revision).await;
            let when = format!("{name}, revision {}", revision.number);
            self.all_readable(&when).await;
            let is_new = revision.providers[0] != writer;
            if is_new {
                if revision.number == 12 {
                    self.rotate("5_secrets").await;
                }
                self.migrate(&revision).await;
                writer.clone_from(&revision.providers[0]);
            }
            self.all_readable(&when).await;
            // May the plugin go? Only when no file names it, and nothing in etcd is under it.
            let (code, said) = self.verify_etcd(&revision, &["--may-remove"]);
            assert_eq!(code, i32::from(revision.names_kms()), "{when}: {said}");
            eprintln!("MEASURED {when}: {:?}, may-remove {code}", started.elapsed());
            last = Some(revision);
        }
        last.unwrap()
    }

    /// Both plugins end without a word. Returns what starts them again.
    fn kill_plugins(self) -> ([tempfile::TempDir; 2], [ApiServer; 2], Etcd, Vault, String) {
        let Self { etcd, vault, config, agents, servers } = self;
        (agents.map(Agent::kill), servers, etcd, vault, config)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kms_to_aescbc_to_aesgcm_is_the_way_out() {
    let mut cluster = Cluster::start().await;
    let last = cluster.follow("none-kms-aescbc-aesgcm").await;
    let text = last.configuration(&cluster.agents[0]);
    let (_directories, mut servers, _etcd, _vault, _) = cluster.kill_plugins();
    for server in &mut servers {
        assert_eq!(server.client.get("/readyz").await.unwrap().status, 200);
    }
    let took = servers[0].restart(&text).await;
    eprintln!(
        "MEASURED after KMS, aescbc and aesgcm, without the plugin: an API server is ready after {took:?}"
    );
    assert_eq!(servers[0].client.read("secrets", "object-1").await.unwrap(), "text 1");
}

/// The operators keep the older key for reads. So after KMS → identity, every API server still needs the plugin.
#[tokio::test(flavor = "multi_thread")]
async fn after_kms_to_identity_the_plugin_must_stay() {
    let mut cluster = Cluster::start().await;
    let last = cluster.follow("none-kms-identity").await;
    let text = last.configuration(&cluster.agents[0]);
    let (directories, mut servers, _etcd, _vault, config) = cluster.kill_plugins();
    for server in &servers {
        server.kms_check_fails(&[]).await;
        assert_eq!(server.client.get("/readyz").await.unwrap().status, 500);
        assert_eq!(server.client.get("/livez").await.unwrap().status, 200);
    }
    servers[0].restart_cold(&text).await;
    servers[0].kms_check_fails(&[]).await;
    // The plugins come back, and everything heals.
    let _agents = directories.map(|directory| Agent::start_in(directory, &config, &[]));
    for server in &servers {
        eventually("readiness", async || {
            let answer = server.client.get("/readyz?verbose").await?;
            if answer.status == 200 { Ok(()) } else { Err(answer.text) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_aescbc_to_kms_and_onwards() {
    Cluster::start().await.follow("aescbc-kms-and-onwards").await;
}
