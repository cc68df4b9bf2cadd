//! Much data: three API servers of one cluster start cold at the same moment, with many Secrets under many DEK seeds.

use std::time::{Duration, Instant};

use crate::apiserver::ApiServer;
use crate::encryption::{PROVIDER, kms, of};
use crate::etcd::Etcd;
use crate::rewrite::large::size;
use crate::support::agent::{Agent, LOCAL_KEK, QUIET};
use crate::support::memory::{ANONYMOUS, PEAK, memory};
use crate::support::vault::{KEY, Vault};

/// Time, calls to the key service, and memory of the agents.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half an hour: .ci/scheduled runs it"]
async fn three_api_servers_start_cold_at_once() {
    for (mode, more) in [("direct mode", ""), ("local KEKs", LOCAL_KEK)] {
        start_cold(mode, more).await;
    }
}

async fn start_cold(mode: &str, more: &str) {
    let (secrets, starts) = (size("KMS_E2E_SECRETS", 50_000), size("KMS_E2E_SEEDS", 100));
    let (etcd, vault) = tokio::join!(Etcd::start(), Vault::start());
    let config = vault.vault_config() + QUIET + more;
    let agents = [Agent::ready(&config).await, Agent::ready(&config).await, Agent::ready(&config).await];
    let encryptions = [0, 1, 2].map(|node: usize| of(&[kms(&agents[node].socket())]));
    let mut servers = Vec::new();
    for encryption in &encryptions {
        servers.push(ApiServer::ready(&etcd, encryption).await);
    }
    // Each start of an API server makes a seed.
    for start in 0..starts {
        let node = start % 3;
        if start >= 3 {
            servers[node].restart(&encryptions[node]).await;
        }
        let names = (0..secrets / starts).map(|number| format!("start-{start}-{number}")).collect();
        servers[node].client.write_new("secrets", names).await;
    }
    let stored = etcd.stored("secrets/").await;
    let mut seeds: Vec<_> = stored.values().map(|stored| stored.seed(PROVIDER)).collect();
    seeds.sort();
    seeds.dedup();
    assert!(seeds.len() >= starts && stored.len() >= secrets / starts * starts);

    let paths = ["decrypt", "encrypt"].map(|action| format!("transit/{action}/{KEY}"));
    let count = || [vault.count(&paths[0]), vault.count(&paths[1])];
    let before = count();
    let began = Instant::now();
    let restarts = servers.iter_mut().zip(&encryptions).map(async |(server, encryption)| {
        let ready = server.restart(encryption).await;
        let listed = server.client.list("secrets").await.unwrap().len();
        assert!(listed >= secrets / starts * starts, "{listed}");
        (ready, began.elapsed())
    });
    let times: Vec<(Duration, Duration)> = futures_util::future::join_all(restarts).await;
    let after = count();
    let (decrypts, encrypts) = (after[0] - before[0], after[1] - before[1]);
    let figures =
        |agent: &Agent| (memory(agent.pid(), PEAK).unwrap(), memory(agent.pid(), ANONYMOUS).unwrap());
    let memory = agents.iter().map(figures).max().unwrap();
    eprintln!(
        "MEASURED three cold API servers, {mode}, {} Secrets under {} DEK seeds: ready after {:.1?} at most, all Secrets \
         listed by each after {:.1?}; {decrypts} decryptions and {encrypts} encryptions by the key service; an agent has used \
         {:.1} MiB at most, of which {:.1} MiB are its own now",
        stored.len(),
        seeds.len(),
        times.iter().map(|(ready, _)| *ready).max().unwrap(),
        times.iter().map(|(_, listed)| *listed).max().unwrap(),
        memory.0 as f64 / 1024.0,
        memory.1 as f64 / 1024.0,
    );
    // Each agent unwraps each seed once, and each local KEK once. Two requests may find a seed unknown at the same moment.
    let most = if more.is_empty() { 3 * seeds.len() * 5 / 4 } else { 3 * agents.len() };
    assert!(decrypts <= most, "{decrypts} for {} seeds", seeds.len());
}
