//! What `render machineconfig` writes is valid to OpenShift's own schemas, in a real API server with strict validation.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};

use crate::apiserver::{ApiServer, Client};
use crate::encryption::{identity, of};
use crate::etcd::Etcd;
use crate::support::agent::command;
use crate::support::eventually;

/// Kind, its path in the API, and the begin of the name of its schema's file.
const KINDS: [(&str, &str, &str); 3] = [
    (
        "MachineConfig",
        "/apis/machineconfiguration.openshift.io/v1/machineconfigs",
        "0000_80_machine-config_01_machineconfigs",
    ),
    (
        "MachineOSConfig",
        "/apis/machineconfiguration.openshift.io/v1/machineosconfigs",
        "0000_80_machine-config_01_machineosconfigs",
    ),
    (
        "MachineConfiguration",
        "/apis/operator.openshift.io/v1/machineconfigurations",
        "0000_80_machine-config_01_machineconfigurations",
    ),
];

/// The schema of a kind for clusters without feature gates.
fn schema(crds: &Path, begin: &str) -> Value {
    let file = [format!("{begin}.crd.yaml"), format!("{begin}-Default.crd.yaml")]
        .map(|name| crds.join(name))
        .into_iter()
        .find(|file| file.exists())
        .unwrap_or_else(|| panic!("{} has no {begin}", crds.display()));
    yaml_serde::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// The objects that a way and its policy are rendered to.
fn rendered(way: &[&str]) -> Vec<Value> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/config.toml");
    let mut objects = Vec::new();
    for part in [&[][..], &["--policy"]] {
        let output = command()
            .args(["render", "machineconfig"])
            .args(way)
            .args(part)
            .arg("--config")
            .arg(&config)
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        objects.extend(text.split("\n---\n").map(|one| yaml_serde::from_str::<Value>(one).unwrap()));
    }
    objects
}

async fn create(client: &Client, object: &Value) -> (u16, String) {
    let (_, path, _) = KINDS.iter().find(|(kind, ..)| object["kind"] == *kind).unwrap();
    let answer = client.call(Method::POST, &format!("{path}?fieldValidation=Strict"), object).await.unwrap();
    let name = object["metadata"]["name"].as_str().unwrap();
    client.call(Method::DELETE, &format!("{path}/{name}"), &Value::Null).await.unwrap();
    (answer.status, answer.text)
}

#[tokio::test]
async fn openshifts_schemas_accept_every_rendered_object() {
    let image = format!("registry.example/kms-plugin@sha256:{}", "0123456789abcdef".repeat(4));
    let ways: [&[&str]; 3] = [
        &["--way", "image", "--package", "https://mirror.example/kms-plugin.rpm"],
        &["--way", "quadlet", "--image", &image],
        &["--way", "fetch", "--image", &image],
    ];
    let versions = std::env::split_paths(&crate::path_of("KMS_E2E_OPENSHIFT_CRDS")).collect::<Vec<_>>();
    assert_eq!(versions.len(), 2);
    for crds in versions {
        let etcd = Etcd::start().await;
        let api = ApiServer::ready(&etcd, &of(&[identity()])).await;
        for (_, path, begin) in KINDS {
            let crd = schema(&crds, begin);
            let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            let made = api.client.call(Method::POST, definitions, &crd).await.unwrap();
            assert_eq!(made.status, 201, "{made:?}");
            eventually("the schema", async || {
                let list = api.client.get(path).await?;
                if list.status == 200 { Ok(()) } else { Err(list.text) }
            })
            .await;
        }
        let mut kinds = std::collections::BTreeSet::new();
        for way in ways {
            for object in rendered(way) {
                let (status, said) = create(&api.client, &object).await;
                assert_eq!(status, 201, "{}: {way:?}: {said}", crds.display());
                kinds.insert(object["kind"].as_str().unwrap().to_owned());
            }
        }
        assert_eq!(kinds.len(), KINDS.len(), "{kinds:?}");
        // The validation is at work: a word that the schema does not have is refused.
        let mut policy = rendered(ways[2]).pop().unwrap();
        policy["spec"]["nodeDisruptionPolicy"]["files"][0]["actions"][0] = json!({ "type": "Restarts" });
        assert_eq!(create(&api.client, &policy).await.0, 422);
        policy["spec"]["nodeDisruptionPolicy"] = json!({ "folders": [] });
        assert_eq!(create(&api.client, &policy).await.0, 400);
    }
}
