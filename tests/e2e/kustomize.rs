//! The component in examples/kustomize, in the overlay of a user (`kustomize/` here): a real kustomize builds it, and a
//! real API server with strict validation takes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};

use crate::apiserver::{ApiServer, NAMESPACE};
use crate::encryption::{identity, of};
use crate::etcd::Etcd;
use crate::support::agent::command;
use crate::support::tools;

/// The objects that the overlay is built to, by kind.
fn built() -> BTreeMap<String, Value> {
    let kustomize = tools::find("kustomize").expect("kustomize, which tests/e2e/run installs");
    let overlay = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/kustomize");
    let output = Command::new(kustomize).arg("build").arg(overlay).output().unwrap();
    // A deprecated field is a warning.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let objects = text.split("\n---\n").map(|one| yaml_serde::from_str::<Value>(one).unwrap());
    objects.map(|object| (object["kind"].as_str().unwrap().to_owned(), object)).collect()
}

/// What is mounted where in a container: the path, and the volume's name.
fn mounts(container: &Value) -> BTreeMap<PathBuf, &str> {
    let mounts = container["volumeMounts"].as_array().unwrap();
    let text = |value: &'_ Value, name: &str| value[name].as_str().unwrap().to_owned();
    mounts
        .iter()
        .map(|mount| (PathBuf::from(text(mount, "mountPath")), mount["name"].as_str().unwrap()))
        .collect()
}

/// The volume that holds a file.
fn volume_of<'a>(mounts: &BTreeMap<PathBuf, &'a str>, file: &str) -> Option<&'a str> {
    mounts.iter().find(|(path, _)| Path::new(file).parent() == Some(path)).map(|(_, volume)| *volume)
}

#[tokio::test]
async fn an_api_server_accepts_the_component_in_a_users_overlay() {
    let objects = built();
    assert_eq!(objects.keys().map(String::as_str).collect::<Vec<_>>(), ["ConfigMap", "Deployment"]);
    let etcd = Etcd::start().await;
    let api = ApiServer::ready(&etcd, &of(&[identity()])).await;
    let paths = BTreeMap::from([
        ("ConfigMap", format!("/api/v1/namespaces/{NAMESPACE}/configmaps")),
        ("Deployment", format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments")),
    ]);
    let create = async |object: &Value| {
        let path = &paths[object["kind"].as_str().unwrap()];
        api.client.call(Method::POST, &format!("{path}?fieldValidation=Strict"), object).await.unwrap()
    };
    // The validation is at work: a field that does not exist is refused, and a mount of a volume that is not there.
    let mut wrong = objects["Deployment"].clone();
    wrong["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = json!([]);
    assert_eq!(create(&wrong).await.status, 400);
    let mut wrong = objects["Deployment"].clone();
    wrong["spec"]["template"]["spec"]["containers"][0]["volumeMounts"][0]["name"] = "socket".into();
    assert_eq!(create(&wrong).await.status, 422);
    let mut created = BTreeMap::new();
    for (kind, object) in &objects {
        let answer = create(object).await;
        assert_eq!(answer.status, 201, "{kind}: {}", answer.text);
        created.insert(kind.as_str(), answer.json());
    }

    let pod = &created["Deployment"]["spec"]["template"]["spec"];
    let containers = pod["containers"].as_array().unwrap();
    let names: Vec<_> = containers.iter().map(|container| container["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["kms-plugin", "kube-apiserver"], "the plugin starts first");
    let [plugin, apiserver] = [&containers[0], &containers[1]];
    let digest = "a".repeat(64);
    assert_eq!(plugin["image"], format!("mirror.internal/kms-plugin@sha256:{digest}"));
    // Each may open the socket that the plugin makes, and the user reads the secret-id by its group.
    let security = |container: &Value| container["securityContext"]["runAsUser"].as_u64();
    assert!(security(plugin).is_some() && security(plugin) == security(apiserver));
    assert_eq!(pod["securityContext"]["fsGroup"].as_u64(), security(plugin));

    // The API server has its own arguments, and one more: a file of the ConfigMap, which exists by this name.
    let arguments = apiserver["args"].as_array().unwrap();
    assert!(arguments.contains(&json!("--authorization-mode=Node,RBAC")), "{arguments:?}");
    let encryption = "--encryption-provider-config=";
    let encryption = arguments.iter().find_map(|one| one.as_str()?.strip_prefix(encryption)).unwrap();
    let volume = volume_of(&mounts(apiserver), encryption).unwrap();
    let volumes = pod["volumes"].as_array().unwrap();
    let sources = &volumes.iter().find(|one| one["name"] == volume).unwrap()["projected"]["sources"];
    assert_eq!(sources[0]["configMap"]["name"], created["ConfigMap"]["metadata"]["name"]);
    assert_eq!(sources[1]["secret"]["name"], "kms-plugin");
    let data = &created["ConfigMap"]["data"];
    let file_of = |path: &str| data[Path::new(path).file_name().unwrap().to_str().unwrap()].as_str().unwrap();

    // Both see the socket, by the path that the API server was told.
    let yaml: Value = yaml_serde::from_str(file_of(encryption)).unwrap();
    let endpoint = yaml["resources"][0]["providers"][0]["kms"]["endpoint"].as_str().unwrap();
    let socket = endpoint.strip_prefix("unix://").unwrap();
    let of_the_socket = volume_of(&mounts(plugin), socket);
    assert!(of_the_socket.is_some() && of_the_socket == volume_of(&mounts(apiserver), socket));

    // The plugin reads the user's configuration, which is valid, and has the socket at that path.
    let arguments = plugin["args"].as_array().unwrap();
    let config = arguments.iter().find_map(|one| one.as_str()?.strip_prefix("--config=")).unwrap();
    assert_eq!(volume_of(&mounts(plugin), config), Some(volume));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    std::fs::write(&file, file_of(config)).unwrap();
    let shown = command().args(["config", "--config"]).arg(file).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned() + &String::from_utf8_lossy(&shown.stderr);
    assert!(shown.contains("https://vault-1.internal:8200") && shown.contains(socket), "{shown}");
}
