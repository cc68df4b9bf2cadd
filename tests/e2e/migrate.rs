//! From a key in the API server's configuration to the plugin, and away from it again.

use serde_json::Value;

use crate::apiserver::{ApiServer, Client, NAMESPACE};
use crate::encryption::{PROVIDER, aescbc, identity, kms, of};
use crate::etcd::{Etcd, Stored};
use crate::support::agent::{Agent, QUICK};
use crate::support::vault::Vault;

const RESOURCES: [&str; 2] = ["secrets", "configmaps"];
const OBJECTS: usize = 20;

async fn all_readable(client: &Client) {
    for resource in RESOURCES {
        for number in 0..OBJECTS {
            let text = client.read(resource, &format!("object-{number}")).await.unwrap();
            assert_eq!(text, format!("text {number}"));
        }
    }
}

/// The API server starts with these providers, of which the first one writes; everything is readable, is rewritten,
/// and is then stored as `form` says.
async fn step(api: &mut ApiServer, etcd: &Etcd, providers: &[Value], form: impl Fn(&Stored) -> bool) {
    api.restart(&of(providers)).await;
    all_readable(&api.client).await;
    for resource in RESOURCES {
        assert!(api.client.rewrite(resource).await >= OBJECTS);
        for (key, stored) in etcd.stored(&format!("{resource}/")).await {
            assert!(form(&stored), "{key}: {stored:?}");
        }
    }
}

fn is_kms(stored: &Stored) -> bool {
    matches!(stored, Stored::Kms { provider, .. } if provider == PROVIDER)
}

#[tokio::test]
async fn aescbc_to_kms_to_aescbc_and_identity_loses_nothing() {
    let (etcd, vault) = tokio::join!(Etcd::start(), Vault::start());
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let kms = kms(&agent.socket());
    let mut api = ApiServer::ready(&etcd, &of(&[aescbc(), identity()])).await;
    for resource in RESOURCES {
        for number in 0..OBJECTS {
            let name = format!("object-{number}");
            api.client.write(resource, &name, &format!("text {number}")).await.unwrap();
        }
        let stored = etcd.stored(&format!("{resource}/{NAMESPACE}/")).await;
        assert!(
            stored.len() >= OBJECTS && stored.values().all(|stored| *stored == Stored::AesCbc),
            "{stored:?}"
        );
    }

    // The plugin writes, the old key still reads. Then the plugin alone.
    step(&mut api, &etcd, &[kms.clone(), aescbc(), identity()], is_kms).await;
    api.restart(&of(std::slice::from_ref(&kms))).await;
    all_readable(&api.client).await;
    // To no encryption, and to the plugin again.
    step(&mut api, &etcd, &[identity(), kms.clone()], |stored| *stored == Stored::Clear).await;
    step(&mut api, &etcd, &[kms.clone(), identity()], is_kms).await;
    // Away, back to the old key.
    step(&mut api, &etcd, &[aescbc(), kms], |stored| *stored == Stored::AesCbc).await;

    // The plugin and its Vault are removed; everything is still readable.
    api.kill();
    drop((agent, vault));
    api.restart(&of(&[aescbc()])).await;
    all_readable(&api.client).await;
}
