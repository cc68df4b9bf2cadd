//! Restarts: of the API server with much to unwrap, and of the plugin while API servers need it.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Instant;

use tempfile::TempDir;

use crate::apiserver::ApiServer;
use crate::encryption::{PROVIDER, kms, of};
use crate::etcd::Etcd;
use crate::key_id_after;
use crate::seeds::{self, SECRETS};
use crate::support::agent::{Agent, QUICK, QUIET, passing};
use crate::support::vault::{KEY, Vault};
use crate::traffic::Traffic;

/// Each start of an API server makes a DEK seed. One with an empty cache unwraps every seed in use once.
#[tokio::test]
async fn a_cold_api_server_unwraps_each_seed_once() {
    let (etcd, vault) = tokio::join!(Etcd::start(), Vault::start());
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let encryption = of(&[kms(&agent.socket())]);
    let mut api = ApiServer::ready(&etcd, &encryption).await;
    seeds::write(&mut api, &encryption).await;
    let seeds = seeds::used(&etcd).await;
    let (decrypts, encrypts) = (format!("transit/decrypt/{KEY}"), format!("transit/encrypt/{KEY}"));
    let before = (vault.count(&decrypts), vault.count(&encrypts));
    let ready = api.restart(&encryption).await;
    let started = Instant::now();
    assert!(api.client.list("secrets").await.unwrap().len() >= SECRETS);
    let listed = started.elapsed();
    let asked = (vault.count(&decrypts) - before.0, vault.count(&encrypts) - before.1);
    eprintln!(
        "MEASURED a cold API server with {SECRETS} Secrets under {} DEK seeds: ready after {ready:.2?}, all listed in \
         {listed:.2?} more, {} Decrypts, {} Encrypts",
        seeds.len(),
        asked.0,
        asked.1
    );
    // Two requests at once may both find a seed unknown.
    assert!((seeds.len()..=2 * seeds.len()).contains(&asked.0), "{asked:?} for {} seeds", seeds.len());
    assert!((1..=3).contains(&asked.1), "{asked:?}");
}

/// A socket that stays while agents come and go, as systemd's does.
struct Node {
    vault: Vault,
    listener: UnixListener,
    socket: PathBuf,
}

impl Node {
    async fn start(&self, directory: TempDir) -> Agent {
        let config = self.vault.vault_config() + QUICK;
        let agent = Agent::start_with(directory, &config, |command| passing(&self.listener, &command));
        agent.wait_for_phase("ready").await;
        agent
    }
}

/// How the plugin ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    Stopped,
}

async fn ended(mut agent: Agent, end: End) -> TempDir {
    if end == End::Stopped {
        assert!(agent.stop().await.success());
    }
    agent.kill()
}

#[tokio::test]
async fn a_killed_plugin_fails_no_request_of_a_client() {
    restarts_fail_no_request("kill -9", End::Killed).await;
}

#[tokio::test]
async fn a_stopped_plugin_fails_no_request_of_a_client() {
    restarts_fail_no_request("SIGTERM", End::Stopped).await;
}

/// The plugin ends while an API server is in use, the key is rotated and another API server starts cold: Status, Encrypt
/// and Decrypt all happen while the plugin is away, or has just started.
async fn restarts_fail_no_request(what: &str, end: End) {
    let (etcd, vault) = tokio::join!(Etcd::start(), Vault::start());
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("kms.sock");
    let node = Node { vault, listener: UnixListener::bind(&socket).unwrap(), socket };
    let mut agent = node.start(directory).await;
    let before = agent.kms().await.status().await.unwrap().key_id;
    let encryption = of(&[kms(&node.socket)]);
    let api = ApiServer::ready(&etcd, &encryption).await;
    let traffic = Traffic::start(&[&api.client]).await;

    let directory = ended(agent, end).await;
    node.vault.rotate().await;
    // Its calls wait in the socket: it needs Status, Encrypt and Decrypt as soon as an agent serves.
    let cold = ApiServer::start(&etcd, &encryption).await;
    let (decrypts, encrypts) = (format!("transit/decrypt/{KEY}"), format!("transit/encrypt/{KEY}"));
    let asked = (node.vault.count(&decrypts), node.vault.count(&encrypts));
    let started = Instant::now();
    agent = node.start(directory).await;
    cold.wait_ready().await;
    let took = started.elapsed();
    eprintln!("MEASURED {what}: an API server that started without the plugin is ready {took:.2?} after it");
    assert!(node.vault.count(&decrypts) > asked.0 && node.vault.count(&encrypts) > asked.1);

    // More restarts, with traffic at both API servers.
    let on_cold = Traffic::start(&[&cold.client]).await;
    for _ in 0..3 {
        agent = node.start(ended(agent, end).await).await;
    }
    let after = key_id_after(&before, &agent).await;
    tokio::join!(
        api.client.writes_under(&etcd, PROVIDER, &after),
        cold.client.writes_under(&etcd, PROVIDER, &after)
    );
    on_cold.stop().await.none_failed(&format!("{what}, at the API server that started cold"));
    traffic.stop().await.none_failed(&format!("{what}, at the API server that stayed"));
}
