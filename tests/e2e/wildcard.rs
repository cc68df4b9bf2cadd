//! `*.*`: everything is encrypted, but for what the API server never encrypts, and what an earlier rule leaves out.

use serde_json::json;

use crate::apiserver::{ApiServer, NAMESPACE};
use crate::encryption::{identity, kms};
use crate::etcd::Etcd;
use crate::support::agent::{Agent, QUICK, command};
use crate::support::vault::Vault;

#[tokio::test(flavor = "multi_thread")]
async fn verify_etcd_finishes_with_a_wildcard() {
    let (etcd, vault) = tokio::join!(Etcd::start(), Vault::start());
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    let encryption = json!({
        "kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1", "resources": [
            { "resources": ["events", "configmaps"], "providers": [identity()] },
            { "resources": ["*.*"], "providers": [kms(&agent.socket()), identity()] },
        ]
    })
    .to_string();
    let api = ApiServer::ready(&etcd, &encryption).await;
    for resource in ["secrets", "configmaps"] {
        api.client.write(resource, "one", "text").await.unwrap();
    }
    let file = agent.directory.path().join("encryption.yaml");
    std::fs::write(&file, &encryption).unwrap();
    let output = command()
        .args(["verify-etcd", "--output", "json", "--endpoint", etcd.endpoint(), "--encryption-config"])
        .arg(&file)
        .arg("--runtime-dir")
        .arg(agent.directory.path().join("run"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let states = |resource: &str| {
        let groups = report["groups"].as_array().unwrap().iter();
        groups
            .filter(|group| group["resource"] == resource)
            .map(|group| group["state"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(states("secrets"), ["current"], "{said}");
    assert_eq!(states("configmaps"), ["as_configured"], "{said}");
    let never = ["ranges", "masterleases", "peerserverleases"].map(states).concat();
    assert!(!never.is_empty() && never.iter().all(|state| *state == "as_configured"), "{said}");
    // One object that the configuration wants encrypted, and that is not.
    let stored = etcd.below(&format!("configmaps/{NAMESPACE}/one")).await.into_values().next().unwrap();
    etcd.put("/registry/secrets/e2e/plain", &stored);
    let output = command()
        .args(["verify-etcd", "--endpoint", etcd.endpoint(), "--encryption-config"])
        .arg(&file)
        .arg("--runtime-dir")
        .arg(agent.directory.path().join("run"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("1 secrets plain"), "{said}");
}
