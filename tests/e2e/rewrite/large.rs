//! The large run, for `.ci/scheduled`.

use std::time::{Duration, Instant};

use super::cluster::{Cluster, Writers, fill};
use crate::apiserver::text_of;
use crate::encryption::{PROVIDER, identity, kms, of};
use crate::support::memory::{PEAK, memory};

/// A number from the environment.
pub fn size(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// The large one, for `.ci/scheduled`: many objects, 200 writes a second of others, ten kills, an API server that restarts,
/// a key service that is away for a minute; memory and time. Then the same by listing and replacing.
#[tokio::test]
#[ignore = "takes an hour: .ci/scheduled runs it"]
async fn of_fifty_thousand() {
    let (secrets, configmaps) = (size("KMS_E2E_SECRETS", 50_000), size("KMS_E2E_CONFIGMAPS", 20_000));
    let mut cluster = Cluster::start().await;
    fill(&cluster.api.client, "secrets", secrets).await;
    fill(&cluster.api.client, "configmaps", configmaps).await;

    // Undisturbed, half of the objects and all of them.
    for (what, arguments) in [("configmaps", &["--resource", "configmaps"][..]), ("all", &[])] {
        let key_id = cluster.rotate().await;
        cluster.api.client.writes_under(&cluster.etcd, PROVIDER, &key_id).await;
        let began = Instant::now();
        let etcd = cluster.etcd_arguments();
        let mut run = cluster.begin(&[&etcd[..], arguments].concat());
        let mut most = 0;
        let status = loop {
            most = most.max(memory(run.id(), PEAK).unwrap_or_default());
            match run.try_wait().unwrap() {
                Some(status) => break status,
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        let took = began.elapsed();
        eprintln!(
            "MEASURED rewrite of {what} ({secrets} secrets, {configmaps} configmaps): {took:.1?}, {} MiB at most",
            most / 1024
        );
        assert!(status.success(), "{status}");
        assert!(most <= 64 * 1024, "{most} KiB");
    }

    // Disturbed.
    let key_id = cluster.rotate().await;
    cluster.api.client.writes_under(&cluster.etcd, PROVIDER, &key_id).await;
    let writers = Writers::start(&cluster.api.client, 200);
    for kill in 0..10_u64 {
        let mut run = cluster.begin(&[]);
        tokio::time::sleep(Duration::from_millis(2_000 + kill * 777)).await;
        let _ended = run.kill();
        run.wait().unwrap();
    }
    let mut run = cluster.begin(&cluster.etcd_arguments());
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.vault.freeze();
    tokio::time::sleep(Duration::from_secs(60)).await;
    cluster.vault.thaw();
    let encryption = of(&[kms(&cluster.agent.socket()), identity()]);
    cluster.api.restart(&encryption).await;
    let status = tokio::task::spawn_blocking(move || run.wait().unwrap()).await.unwrap();
    assert!(status.success(), "{status}");
    let writes = writers.stop(&cluster.api.client).await;
    eprintln!(
        "MEASURED {writes} writes of others during ten kills, a minute without Vault and a restart of the API server: none is lost"
    );
    cluster.all_under(&key_id).await;

    // As it was done before: list with values, replace each.
    let key_id = cluster.rotate().await;
    cluster.api.client.writes_under(&cluster.etcd, PROVIDER, &key_id).await;
    let began = Instant::now();
    let all = cluster.api.client.get("/api/v1/secrets").await.unwrap();
    let replaced = cluster.api.client.rewrite("secrets").await;
    eprintln!(
        "MEASURED list and replace of {replaced} secrets one by one: {:.1?}; the list alone holds {} MiB of values",
        began.elapsed(),
        all.text.len() / 1024 / 1024
    );
    assert!(all.json()["items"].as_array().unwrap().iter().any(|one| !text_of("secrets", one).is_empty()));
}
