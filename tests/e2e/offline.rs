//! Local KEKs: API servers and agents start while Vault is away.

use std::os::unix::net::UnixListener;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::apiserver::ApiServer;
use crate::encryption::{PROVIDER, kms, of};
use crate::etcd::Etcd;
use crate::key_id_after;
use crate::seeds::{self, SECRETS};
use crate::support::agent::{Agent, LOCAL_KEK, QUICK};
use crate::support::eventually;
use crate::support::kms::SEED;
use crate::support::store::Store;
use crate::support::vault::Vault;
use crate::traffic::Traffic;

/// The first bytes of a seed in etcd that is under a local KEK.
const LOCAL: &[u8] = b"local-kek:v1:";

/// What stays on a node while agents come and go: the socket, and the descriptors that systemd keeps.
struct Node {
    store: Store,
    encryption: String,
}

impl Node {
    /// A node, and the directory for its first agent.
    fn new() -> (Self, TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("kms.sock");
        let store = Store::new(UnixListener::bind(&socket).unwrap());
        (Self { store, encryption: of(&[kms(&socket)]) }, directory)
    }

    /// A node with an agent that is ready.
    async fn ready(config: &str) -> (Self, Agent) {
        let (node, directory) = Self::new();
        let agent = node.start(directory, config).await;
        (node, agent)
    }

    /// The next agent, ready.
    async fn start(&self, directory: TempDir, config: &str) -> Agent {
        let agent = self.store.start(directory, config);
        agent.wait_for_phase("ready").await;
        agent
    }
}

/// Waits until every key that was seen is in memory.
async fn ready_for_an_outage(agent: &Agent) -> Value {
    eventually("readiness for an outage", async || {
        let status = agent.status()?;
        if status["offline"]["ready"] == true {
            Ok(status)
        } else {
            Err(format!("{status}\n{}", agent.log()))
        }
    })
    .await
}

/// Seeds in etcd under local KEKs, and those that Transit wrapped itself.
async fn forms(etcd: &Etcd) -> (usize, usize) {
    let (mut local, mut direct) = (0, 0);
    for resource in ["secrets/", "configmaps/"] {
        for stored in etcd.stored(resource).await.values() {
            let seed = stored.seed(PROVIDER);
            *(if seed.starts_with(LOCAL) { &mut local } else { &mut direct }) += 1;
        }
    }
    (local, direct)
}

async fn rewrite(api: &ApiServer) {
    for resource in ["secrets", "configmaps"] {
        api.client.rewrite(resource).await;
    }
}

/// Rotates the key, and writes everything anew. Without a new key_id the API server goes on with the seed that it has,
/// and takes an object that is written as it was for unchanged: it stays in etcd as it lies there.
async fn rewrite_all(vault: &Vault, etcd: &Etcd, agent: &Agent, api: &ApiServer) {
    let before = agent.kms().await.status().await.unwrap().key_id;
    vault.rotate().await;
    let after = key_id_after(&before, agent).await;
    api.client.writes_under(etcd, PROVIDER, &after).await;
    rewrite(api).await;
}

/// Vault and the agent are killed, and the API server starts with an empty cache.
#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_a_cold_api_server_reads_all_and_writes() {
    let (etcd, mut vault) = tokio::join!(Etcd::start(), Vault::persistent());
    let config = vault.vault_config() + QUICK + LOCAL_KEK;
    let (node, mut agent) = Node::ready(&config).await;
    let mut api = ApiServer::ready(&etcd, &node.encryption).await;
    seeds::write(&mut api, &node.encryption).await;
    let seeds = seeds::used(&etcd).await;
    assert!(seeds.iter().all(|seed| seed.starts_with(LOCAL)));
    assert_eq!(forms(&etcd).await.1, 0);
    let before = ready_for_an_outage(&agent).await;
    assert_eq!(before["offline"]["kept"], true);
    assert_eq!(node.store.names().len(), 1, "{:?}", node.store.names());
    let key_id = agent.kms().await.status().await.unwrap().key_id;

    vault.kill();
    let asked = vault.audited().len();
    let directory = agent.kill();
    let begun = Instant::now();
    agent = node.store.start(directory, &config);
    let ready = api.restart(&node.encryption).await;
    let since = begun.elapsed();
    let started = Instant::now();
    let secrets = api.client.list("secrets").await.unwrap();
    let listed = started.elapsed();
    assert!(secrets.len() >= SECRETS, "{}", secrets.len());
    let started = Instant::now();
    for number in 0..20 {
        api.client.write("secrets", &format!("offline-{number}"), "in the outage").await.unwrap();
    }
    let written = started.elapsed();
    assert_eq!(api.client.read("secrets", "offline-7").await.unwrap(), "in the outage");
    assert_eq!(api.client.read("secrets", "seed-0-0").await.unwrap(), "text");
    let during = agent.wait_for_reason("degraded", "unreachable").await;
    assert_eq!(during["offline"]["unwraps"], 0, "{during}");
    assert_eq!(vault.audited().len(), asked, "the killed Vault got no request");
    eprintln!(
        "MEASURED Vault and the agent are killed: a cold API server with {SECRETS} Secrets under {} DEK seeds is ready \
         after {ready:.2?} ({since:.2?} after the agent's end), lists all in {listed:.2?} more, writes 20 in \
         {written:.2?}; 0 requests to Vault",
        seeds.len()
    );
    let mut kms = agent.kms().await;
    let status = kms.status().await.unwrap();
    assert_eq!((status.healthz.as_str(), &status.key_id), ("ok", &key_id));
    let (_, health) = agent.admin("GET", "/healthz").unwrap();
    eprintln!("MEASURED /healthz of the agent in the outage: {}", health.trim());
    assert!(health.contains("degraded") && health.contains("Status ok until"), "{health}");
    assert!(kms.encrypt(&SEED).await.unwrap().ciphertext.starts_with(LOCAL));

    vault.restart().await;
    let back = Instant::now();
    agent.wait_for_phase("ready").await;
    ready_for_an_outage(&agent).await;
    api.wait_ready().await;
    eprintln!("MEASURED Vault is back: the agent and the API server are ready after {:.2?}", back.elapsed());
    // From Vault alone: nothing is left of the keys in memory.
    let directory = agent.kill();
    node.store.clear();
    agent = node.start(directory, &config).await;
    let ready = api.restart(&node.encryption).await;
    eprintln!("MEASURED Vault is back, and nothing was kept: a cold API server is ready after {ready:.2?}");
    assert_eq!(api.client.list("secrets").await.unwrap().len(), secrets.len() + 20);
    assert_eq!(api.client.read("secrets", "offline-7").await.unwrap(), "in the outage");
    let status = ready_for_an_outage(&agent).await;
    assert!(status["offline"]["unwraps"].as_u64().unwrap() <= 3, "one local KEK, not a seed each: {status}");
}

/// An object in direct mode is readable in an outage once the agent has decrypted its seed.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_direct_mode_does_not_keep_a_cold_api_server_down() {
    let (etcd, vault) = tokio::join!(Etcd::start(), Vault::start());
    let direct = vault.vault_config() + QUICK;
    let (node, mut agent) = Node::ready(&direct).await;
    let mut api = ApiServer::ready(&etcd, &node.encryption).await;
    api.client.write("secrets", "early", "in direct mode").await.unwrap();
    assert_eq!(forms(&etcd).await.0, 0);
    agent = node.start(agent.kill(), &(direct + LOCAL_KEK)).await;
    // It unwraps the seed of direct mode, and makes one of its own.
    api.restart(&node.encryption).await;
    api.client.write("secrets", "late", "under a local KEK").await.unwrap();
    let (local, left) = forms(&etcd).await;
    assert!(local > 0 && left > 0, "{local} {left}");
    let status = ready_for_an_outage(&agent).await;
    assert!(status["offline"]["seeds"].as_u64().unwrap() >= 1, "{status}");

    vault.freeze();
    agent.wait_for_reason("degraded", "unreachable").await;
    let ready = api.restart(&node.encryption).await;
    eprintln!(
        "MEASURED Vault hangs, {left} objects are in direct mode: a cold API server is ready after {ready:.2?}"
    );
    for (name, text) in [("early", "in direct mode"), ("late", "under a local KEK")] {
        assert_eq!(api.client.read("secrets", name).await.unwrap(), text);
    }
    vault.thaw();
    agent.wait_for_phase("ready").await;
    rewrite_all(&vault, &etcd, &agent, &api).await;
    assert_eq!(forms(&etcd).await.1, 0, "nothing is left in direct mode");
    ready_for_an_outage(&agent).await;
    vault.freeze();
    agent.wait_for_reason("degraded", "unreachable").await;
    api.restart(&node.encryption).await;
    assert_eq!(api.client.read("secrets", "early").await.unwrap(), "in direct mode");
}

/// Beyond max_offline no key is left in memory, the messages say why, and afterwards nothing has to be restarted.
#[tokio::test(flavor = "multi_thread")]
async fn beyond_max_offline_calls_fail_with_the_reason_until_vault_returns() {
    let (etcd, vault) = tokio::join!(Etcd::start(), Vault::start());
    let config = vault.vault_config() + QUICK + LOCAL_KEK + "max_offline = \"40s\"\n";
    let (node, agent) = Node::ready(&config).await;
    let mut api = ApiServer::ready(&etcd, &node.encryption).await;
    api.client.write("secrets", "one", "text").await.unwrap();
    ready_for_an_outage(&agent).await;
    vault.freeze();
    agent.wait_for_reason("degraded", "unreachable").await;
    api.restart(&node.encryption).await;
    assert_eq!(api.client.read("secrets", "one").await.unwrap(), "text");
    let check = api.kms_check_fails(&["max_offline", "remedy"]).await;
    eprintln!("MEASURED beyond max_offline the API server says: {check}");
    eventually("an empty descriptor store", async || {
        let names = node.store.names();
        if names.is_empty() { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    let status = agent.wait_for_phase("failed").await;
    assert_eq!((&status["offline"]["keks"], &status["offline"]["ready"]), (&0.into(), &false.into()));
    api.restart_cold(&node.encryption).await;
    assert_eq!(api.client.get("/readyz").await.unwrap().status, 500);
    let refused = api.client.read("secrets", "one").await.unwrap_err();
    assert!(refused.contains("InternalError"), "{refused}");
    assert!(api.client.write("secrets", "two", "text").await.is_err());
    vault.thaw();
    let back = Instant::now();
    api.wait_ready().await;
    eprintln!(
        "MEASURED an API server that started beyond max_offline is ready {:.2?} after its end",
        back.elapsed()
    );
    assert_eq!(api.client.read("secrets", "one").await.unwrap(), "text");
    api.client.write("secrets", "two", "text").await.unwrap();
    ready_for_an_outage(&agent).await;
    assert_eq!(node.store.names().len(), 1);
}

/// Local KEKs are turned off again: the data under them stays readable, and is rewritten in direct mode.
#[tokio::test(flavor = "multi_thread")]
async fn data_under_local_keks_stays_readable_when_they_are_turned_off() {
    let (etcd, vault) = tokio::join!(Etcd::start(), Vault::start());
    let off = vault.vault_config() + QUICK;
    let (node, mut agent) = Node::ready(&(off.clone() + LOCAL_KEK)).await;
    let mut api = ApiServer::ready(&etcd, &node.encryption).await;
    api.client.write("secrets", "one", "under a local KEK").await.unwrap();
    assert_eq!(forms(&etcd).await.1, 0);
    let directory = agent.kill();
    agent = node.start(directory, &(off + "[local_kek]\nenabled = false\n")).await;
    assert_eq!(agent.status().unwrap()["offline"], Value::Null);
    assert!(node.store.names().is_empty(), "{:?}", node.store.names());
    assert!(!agent.directory.path().join("state/wrapped-keys.json").exists());
    api.restart(&node.encryption).await;
    assert_eq!(api.client.read("secrets", "one").await.unwrap(), "under a local KEK");
    rewrite(&api).await;
    assert!(forms(&etcd).await.0 > 0, "without a new key_id nothing is written anew");
    rewrite_all(&vault, &etcd, &agent, &api).await;
    assert_eq!(forms(&etcd).await.0, 0);
    api.restart(&node.encryption).await;
    assert_eq!(api.client.read("secrets", "one").await.unwrap(), "under a local KEK");
}

/// After a rotation each agent has the new local KEK before it announces the new key_id.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_id_is_announced_once_its_local_kek_exists() {
    let (etcd, vault) = tokio::join!(Etcd::start(), Vault::start());
    let config = vault.vault_config() + QUICK + LOCAL_KEK;
    let ((one, first_agent), (two, second_agent)) = tokio::join!(Node::ready(&config), Node::ready(&config));
    let (first, second) =
        tokio::join!(ApiServer::ready(&etcd, &one.encryption), ApiServer::ready(&etcd, &two.encryption));
    let before = first_agent.kms().await.status().await.unwrap().key_id;
    let traffic = Traffic::start(&[&first.client, &second.client]).await;
    vault.rotate().await;
    let (after, same) =
        tokio::join!(key_id_after(&before, &first_agent), key_id_after(&before, &second_agent));
    assert_eq!(after, same);
    tokio::join!(
        first.client.writes_under(&etcd, PROVIDER, &after),
        second.client.writes_under(&etcd, PROVIDER, &after)
    );
    traffic.stop().await.none_failed("a rotation with local KEKs on two nodes");

    // Once it is announced, Vault is not needed for it.
    vault.rotate().await;
    let last = key_id_after(&after, &first_agent).await;
    vault.freeze();
    let wrapped = first_agent.kms().await.encrypt(&SEED).await.unwrap();
    assert_eq!(wrapped.key_id, last);
    assert!(wrapped.ciphertext.starts_with(LOCAL));
    first.client.writes_under(&etcd, PROVIDER, &last).await;
    second.client.write("secrets", "by-two", "text").await.unwrap();
    assert_eq!(first.client.read("secrets", "by-two").await.unwrap(), "text");
    vault.thaw();
    assert_eq!(key_id_after(&after, &second_agent).await, last);
    second.client.writes_under(&etcd, PROVIDER, &last).await;
    for api in [&first, &second] {
        assert!(forms(&etcd).await.0 > 0 && api.client.list("secrets").await.is_ok());
    }
}
