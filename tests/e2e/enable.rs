//! Encryption is turned on, and the key is rotated, in a cluster that is in use.

use serde_json::json;

use crate::apiserver::{ApiServer, NAMESPACE};
use crate::encryption::{PROVIDER, identity, kms, of};
use crate::etcd::{Etcd, Stored};
use crate::key_id_after;
use crate::support::agent::{Agent, QUICK};
use crate::support::vault::{KEY, Vault};

const RESOURCES: [&str; 2] = ["secrets", "configmaps"];

/// What `kms-plugin verify-etcd` answers: 0 is finished, 1 is not.
fn verify(agent: &Agent, etcd: &Etcd) -> i32 {
    let (code, said) = agent.command_with(&["verify-etcd", "--endpoint", etcd.endpoint()]);
    eprintln!("{said}");
    code
}

#[tokio::test]
async fn enabling_and_rotating_leave_all_data_encrypted_and_readable() {
    let (etcd, vault) = tokio::join!(Etcd::start(), Vault::start());
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let mut api = ApiServer::ready(&etcd, &of(&[identity()])).await;
    for resource in RESOURCES {
        api.client.write(resource, "early", "written-in-clear").await.unwrap();
    }
    assert!(etcd.holds(b"written-in-clear"), "what is in clear is found in etcd's files");

    let encryption = of(&[kms(&agent.socket()), identity()]);
    api.restart(&encryption).await;
    let first = agent.kms().await.status().await.unwrap().key_id;
    for resource in RESOURCES {
        assert_eq!(api.client.read(resource, "early").await.unwrap(), "written-in-clear");
        api.client.write(resource, "late", "written-encrypted").await.unwrap();
        let stored = etcd.stored(&format!("{resource}/{NAMESPACE}/")).await;
        assert_eq!(stored[&format!("/registry/{resource}/{NAMESPACE}/early")], Stored::Clear);
        assert_eq!(stored[&format!("/registry/{resource}/{NAMESPACE}/late")].key_id(PROVIDER), first);
        api.client.rewrite(resource).await;
        let ids = etcd.key_ids(&format!("{resource}/"), PROVIDER).await;
        assert_eq!(ids.into_keys().collect::<Vec<_>>(), [first.as_str()]);
        assert_eq!(api.client.read(resource, "early").await.unwrap(), "written-in-clear");
        assert_eq!(api.client.read(resource, "late").await.unwrap(), "written-encrypted");
    }
    assert!(!etcd.holds(b"written-encrypted"), "what was written since is in clear nowhere");
    assert_eq!(api.client.kms_check().await.status, 200);
    assert_eq!(verify(&agent, &etcd), 0, "everything is under the first version");

    vault.rotate().await;
    let second = key_id_after(&first, &agent).await;
    api.client.writes_under(&etcd, PROVIDER, &second).await;
    assert_eq!(verify(&agent, &etcd), 1, "old data is under the old version");
    for resource in RESOURCES {
        assert_eq!(
            api.client.read(resource, "late").await.unwrap(),
            "written-encrypted",
            "under the old version"
        );
        api.client.rewrite(resource).await;
        let ids = etcd.key_ids(&format!("{resource}/"), PROVIDER).await;
        assert_eq!(ids.into_keys().collect::<Vec<_>>(), [second.as_str()]);
    }
    assert_eq!(verify(&agent, &etcd), 0, "everything is under the second version");
    vault.post(&format!("transit/keys/{KEY}/config"), json!({ "min_decryption_version": 2 })).await;
    api.restart(&encryption).await;
    for resource in RESOURCES {
        assert_eq!(api.client.read(resource, "early").await.unwrap(), "written-in-clear");
        assert_eq!(api.client.read(resource, "late").await.unwrap(), "written-encrypted");
    }
}
