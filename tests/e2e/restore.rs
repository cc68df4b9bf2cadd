//! etcd is restored from a snapshot that is older than a rotation, with the key and without it.

use serde_json::json;

use crate::apiserver::{ApiServer, NAMESPACE};
use crate::encryption::{PROVIDER, kms, of};
use crate::etcd::Etcd;
use crate::key_id_after;
use crate::support::agent::{Agent, QUICK, command};
use crate::support::vault::{KEY, Vault};

#[tokio::test]
async fn a_snapshot_from_before_a_rotation_is_readable_as_long_as_the_key_is_there() {
    let (mut etcd, vault) = tokio::join!(Etcd::start(), Vault::start());
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let encryption = of(&[kms(&agent.socket())]);
    let mut api = ApiServer::ready(&etcd, &encryption).await;
    for number in 0..10 {
        api.client.write("secrets", &format!("object-{number}"), "before").await.unwrap();
    }
    let before = etcd.key_ids("secrets/", PROVIDER).await;
    let snapshot = etcd.save();

    vault.rotate().await;
    let first = before.keys().next().unwrap().clone();
    let second = key_id_after(&first, &agent).await;
    api.client.writes_under(&etcd, PROVIDER, &second).await;
    for number in 0..10 {
        api.client.write("secrets", &format!("object-{number}"), "after").await.unwrap();
    }
    assert!(!etcd.key_ids("secrets/", PROVIDER).await.contains_key(&first));

    // The API servers are stopped, etcd is restored, the API servers start.
    api.kill();
    etcd.restore(&snapshot).await;
    assert_eq!(etcd.key_ids("secrets/", PROVIDER).await, before);
    api.restart(&encryption).await;
    for number in 0..10 {
        assert_eq!(api.client.read("secrets", &format!("object-{number}")).await.unwrap(), "before");
    }
    api.client.write("secrets", "fresh", "written since").await.unwrap();
    let fresh = etcd.stored(&format!("secrets/{NAMESPACE}/fresh")).await;
    assert_eq!(
        fresh.values().next().unwrap().key_id(PROVIDER),
        second,
        "what is written since is under the new one"
    );

    // Without the key nothing is readable, and the check, the client and the agent say why.
    vault.post(&format!("transit/keys/{KEY}/config"), json!({ "deletion_allowed": true })).await;
    vault.delete(&format!("transit/keys/{KEY}")).await;
    agent.wait_for_reason("failed", "key_missing").await;
    api.restart_cold(&encryption).await;
    let check = api.kms_check_fails(&[KEY, "backup"]).await;
    eprintln!("MEASURED without the key the API server's check says: {check}");
    // A client is told that it is the encryption; the check and the API server's log have the reason.
    let refused = api.client.read("secrets", "object-1").await.unwrap_err();
    assert!(refused.contains("transformer"), "{refused}");
    eprintln!("MEASURED without the key a client is told: {refused}");
    let reason = agent.status().unwrap()["reason"].clone();
    assert!(reason["remedy"].as_str().unwrap().contains("backup"), "{reason}");
    eprintln!("MEASURED without the key the agent says: {reason}");
}

/// The drill of docs/operations.md: a backup of etcd, restored into an etcd of its own, and the Vault that must be able
/// to read it.
#[tokio::test]
async fn a_drill_says_whether_this_vault_reads_that_backup() {
    let (etcd, vault) = tokio::join!(Etcd::start(), Vault::start());
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let encryption = of(&[kms(&agent.socket())]);
    let mut api = ApiServer::ready(&etcd, &encryption).await;
    api.client.write("secrets", "first", "under the first seed").await.unwrap();
    api.restart(&encryption).await;
    api.client.write("secrets", "second", "under the second seed").await.unwrap();
    let snapshot = etcd.save();
    api.kill();
    vault.rotate().await;

    // On a machine of its own: the restored etcd, no API server, an agent with the Vault that is tested.
    let mut drill = Etcd::start().await;
    drill.restore(&snapshot).await;
    let ask = || {
        let output = command()
            .args(["verify-etcd", "--can-read-seeds", "--endpoint", drill.endpoint(), "--socket"])
            .arg(agent.socket())
            .arg("--runtime-dir")
            .arg(agent.directory.path().join("run"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap(), said.into_owned())
    };
    let (code, said) = ask();
    assert!(code == 0 && said.contains("can-read-seeds: yes: "), "{code} {said}");
    eprintln!("MEASURED the drill says: {}", said.lines().last().unwrap());
    vault.post(&format!("transit/keys/{KEY}/config"), json!({ "min_decryption_version": 2 })).await;
    let (code, said) = ask();
    assert!(code == 1 && said.contains("can-read-seeds: no: ") && said.contains("version"), "{code} {said}");
    eprintln!("MEASURED the drill says: {}", said.lines().last().unwrap());
}
