//! Many Secrets under many DEK seeds.

use crate::apiserver::ApiServer;
use crate::encryption::PROVIDER;
use crate::etcd::Etcd;

/// DEK seeds that the Secrets are written under at least.
pub const SEEDS: usize = 20;
/// Secrets that are written.
pub const SECRETS: usize = 10_000;

/// Writes the Secrets: each start of an API server makes a DEK seed.
pub async fn write(api: &mut ApiServer, encryption: &str) {
    for seed in 0..SEEDS {
        if seed > 0 {
            api.restart(encryption).await;
        }
        let names = (0..SECRETS / SEEDS).map(|number| format!("seed-{seed}-{number}")).collect();
        api.client.write_new("secrets", names).await;
    }
}

/// The wrapped seeds of all Secrets, each once.
pub async fn used(etcd: &Etcd) -> Vec<Vec<u8>> {
    let mut seeds: Vec<_> =
        etcd.stored("secrets/").await.values().map(|stored| stored.seed(PROVIDER)).collect();
    assert!(seeds.len() >= SECRETS);
    seeds.sort();
    seeds.dedup();
    seeds
}
