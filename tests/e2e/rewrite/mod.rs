//! `kms-plugin rewrite`: every object is stored anew, nobody's write is lost, and what is not done is said.

mod cluster;
pub mod large;
mod migration;
mod pipe;
mod rights;
mod webhook;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use self::cluster::{Cluster, Writers, fill, make_namespace};
use crate::apiserver::NAMESPACE;
use crate::encryption::{PROVIDER, identity, kms, of};
use crate::etcd::Stored;
use crate::support::eventually;

const PARTIAL: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const MERGE: &str = "application/merge-patch+json";

/// The facts that `kms-plugin rewrite` rests on.
#[tokio::test]
async fn an_empty_patch_stores_a_stale_object_anew_and_no_value_travels() {
    let cluster = Cluster::start().await;
    let client = &cluster.api.client;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
    let object = json!({ "metadata": { "name": "one" }, "immutable": true, "data": { "text": "dmFsdWU=" } });
    assert_eq!(client.call(Method::POST, &path, &object).await.unwrap().status, 201);
    let path = format!("{path}/one");
    let read = async || client.get(&path).await.unwrap().json();
    let stored =
        async || cluster.etcd.stored(&format!("secrets/{NAMESPACE}/one")).await.into_values().next().unwrap();
    let patch = async |revision: &str| {
        let body = json!({ "metadata": { "resourceVersion": revision } });
        let path = format!("{path}?fieldManager=kms-plugin-rewrite");
        client.call_as(Method::PATCH, &path, &body, MERGE, PARTIAL).await.unwrap()
    };
    let before = read().await;
    let revision = before["metadata"]["resourceVersion"].as_str().unwrap();

    // Under the current key_id, nothing is written.
    let first = stored().await;
    assert_eq!(patch(revision).await.status, 200);
    assert_eq!((read().await, stored().await), (before.clone(), first));

    // Under a new one, the object is stored anew, also an immutable one. Nothing in it changes, and no field gets another
    // manager.
    let key_id = cluster.rotate().await;
    client.writes_under(&cluster.etcd, PROVIDER, &key_id).await;
    let answer = patch(revision).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!answer.text.contains("dmFsdWU"), "a value is answered: {answer:?}");
    assert_eq!(stored().await.key_id(PROVIDER), key_id);
    let mut after = read().await;
    assert_ne!(after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
    after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
    assert_eq!(after, before);

    // Somebody wrote it meanwhile: a conflict. Deleted: not found.
    assert_eq!(patch(revision).await.status, 409);
    assert_eq!(client.call(Method::DELETE, &path, &Value::Null).await.unwrap().status, 200);
    assert_eq!(patch(revision).await.status, 404);
}

#[tokio::test]
async fn a_rotation_is_finished_under_the_writes_of_others() {
    let cluster = Cluster::start().await;
    let client = &cluster.api.client;
    fill(client, "secrets", 400).await;
    fill(client, "configmaps", 100).await;
    let writers = Writers::start(client, 40);
    let key_id = cluster.rotate().await;
    let (code, planned) = cluster.rewrite(&["--dry-run", "--unchecked"]).await;
    assert_eq!((code, &planned["verdict"]), (0, &json!("planned")), "{planned}");
    assert!(planned["objects"].as_u64().unwrap() >= 500, "{planned}");

    // It waits by itself until the API server has the new key.
    let (code, report) = cluster.rewrite(&cluster.etcd_arguments()).await;
    assert_eq!((code, &report["verdict"]), (0, &json!("proven")), "{report}");
    assert!(report["resources"]["secrets"]["anew"].as_u64().unwrap() >= 380, "{report}");
    assert_eq!(report["verification"]["finished"], true, "{report}");
    let writes = writers.stop(client).await;
    assert!(writes > 0);
    cluster.all_under(&key_id).await;

    // Again: nothing is left to do, and nothing is asked of the objects. Without etcd, it is not a success.
    let (code, report) = cluster.rewrite(&[]).await;
    assert_eq!((code, &report["verdict"]), (3, &json!("not_proven")), "{report}");
    assert_eq!(report["resources"]["configmaps"]["objects"], report["resources"]["configmaps"]["newer"]);
    // Without its memory it asks for each object, and the API server writes nothing.
    let (code, report) = cluster.rewrite(&["--no-state"]).await;
    assert_eq!(code, 3, "{report}");
    assert_eq!(report["resources"]["configmaps"]["objects"], report["resources"]["configmaps"]["unchanged"]);
}

#[tokio::test]
async fn it_is_killed_at_any_moment_and_goes_on() {
    let cluster = Cluster::start().await;
    fill(&cluster.api.client, "secrets", 600).await;
    let key_id = cluster.rotate().await;
    cluster.api.client.writes_under(&cluster.etcd, PROVIDER, &key_id).await;
    let under =
        async || cluster.etcd.key_ids("secrets/", PROVIDER).await.get(&key_id).copied().unwrap_or_default();
    for kill in 0..4_u64 {
        let before = under().await;
        let mut run = cluster.begin(&["--max-rate", "100"]);
        eventually("writes of the run", async || {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = under().await;
            if now > before { Ok(()) } else { Err(format!("{now} objects are under the new key_id")) }
        })
        .await;
        tokio::time::sleep(Duration::from_millis(kill * 97)).await;
        let _ended = run.kill();
        run.wait().unwrap();
    }
    assert!(under().await < 600, "the kills came too late");
    let (code, report) = cluster.rewrite(&cluster.etcd_arguments()).await;
    assert_eq!((code, &report["verdict"]), (0, &json!("proven")), "{report}");
    let done = report["resources"]["secrets"]["newer"].as_u64().unwrap();
    assert!(done > 0, "the killed runs have done something, and that is not done again: {report}");
    cluster.all_under(&key_id).await;
}

#[tokio::test]
async fn it_does_not_begin_before_the_api_servers_have_the_key() {
    let cluster = Cluster::start().await;
    // No agent is asked here, so that the key_id is one that no API server has.
    let elsewhere = tempfile::tempdir().unwrap();
    let elsewhere = elsewhere.path().display().to_string();
    let arguments = ["--runtime-dir", &elsewhere, "--wait", "0s", "--key-id"];
    let (code, report) = cluster.rewrite(&[&arguments[..], &["v1.unknown"]].concat()).await;
    assert_eq!((code, &report["verdict"]), (2, &json!("not_begun")), "{report}");
    let why = report["not_begun"].as_str().unwrap();
    assert!(why.contains("does not write under the new key_id yet"), "{why}");
    assert_eq!(report["resources"], json!({}));
    // Nor when the nodes announce another one.
    let (code, report) = cluster.rewrite(&["--key-id", "v1.unknown"]).await;
    assert_eq!(code, 2, "{report}");
    assert!(report["not_begun"].as_str().unwrap().contains("the nodes announce"), "{report}");
    // Nor without any key_id.
    let (code, report) = cluster.rewrite(&arguments[..2]).await;
    assert_eq!(code, 69, "{report}");
    assert!(report["errors"].as_str().unwrap().contains("--node"), "{report}");
}

/// An admission policy refuses the writes in one namespace. All others are done; the report names the policy.
#[tokio::test]
async fn a_namespace_that_is_refused_is_named() {
    let cluster = Cluster::start().await;
    let client = &cluster.api.client;
    fill(client, "secrets", 50).await;
    make_namespace(client, "closed").await;
    let object = json!({ "metadata": { "name": "kept" }, "data": { "text": "dmFsdWU=" } });
    let made = client.call(Method::POST, "/api/v1/namespaces/closed/secrets", &object).await.unwrap();
    assert_eq!(made.status, 201, "{made:?}");
    let group = "/apis/admissionregistration.k8s.io/v1";
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": "closed" },
        "spec": {
            "matchConstraints": { "resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["secrets"],
            }] },
            "validations": [{ "expression": "request.namespace != 'closed'", "message": "it is closed" }],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": { "name": "closed" }, "spec": { "policyName": "closed", "validationActions": ["Deny"] },
    });
    for (path, object) in
        [("validatingadmissionpolicies", &policy), ("validatingadmissionpolicybindings", &binding)]
    {
        let made = client.call(Method::POST, &format!("{group}/{path}"), object).await.unwrap();
        assert_eq!(made.status, 201, "{made:?}");
    }
    let kept = "/api/v1/namespaces/closed/secrets/kept";
    eventually("the policy", async || {
        let body = json!({ "metadata": { "labels": { "tried": "yes" } } });
        let answer = client.call_as(Method::PATCH, kept, &body, MERGE, PARTIAL).await?;
        if answer.status == 422 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    let key_id = cluster.rotate().await;
    let (code, report) = cluster.rewrite(&cluster.etcd_arguments()).await;
    assert_eq!((code, &report["verdict"]), (1, &json!("left")), "{report}");
    let problem = &report["resources"]["secrets"]["problems"][0];
    assert_eq!((&problem["kind"], &problem["by"]), (&json!("admission"), &json!("closed")), "{report}");
    assert_eq!((&problem["objects"], &problem["examples"]), (&json!(1), &json!(["closed/kept"])), "{report}");
    let ids = cluster.etcd.key_ids(&format!("secrets/{NAMESPACE}/"), PROVIDER).await;
    assert_eq!(ids.keys().collect::<Vec<_>>(), [&key_id]);
}

/// Away from KMS: the file says how every object is to be stored, and each API server must use that very file.
#[tokio::test]
async fn a_migration_to_identity_is_finished() {
    let mut cluster = Cluster::start().await;
    fill(&cluster.api.client, "secrets", 30).await;
    let text = of(&[identity(), kms(&cluster.agent.socket())]);
    let file = cluster.agent.directory.path().join("encryption.yaml");
    std::fs::write(&file, &text).unwrap();
    let file = file.display().to_string();
    let arguments = ["--encryption-config", &file, "--wait", "0s"];
    let (code, report) = cluster.rewrite(&arguments).await;
    assert_eq!(code, 2, "the API server still uses the other file: {report}");
    cluster.api.restart(&text).await;
    let etcd = cluster.etcd_arguments();
    let (code, report) = cluster.rewrite(&[&arguments[..], &etcd[..]].concat()).await;
    assert_eq!((code, &report["verdict"]), (0, &json!("proven")), "{report}");
    let stored = cluster.etcd.stored("secrets/").await;
    assert!(stored.len() >= 30 && stored.values().all(|stored| *stored == Stored::Clear), "{stored:?}");
}
