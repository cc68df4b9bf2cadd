//! What `render rbac` and `render rewrite-job` write, in a real kube-apiserver with RBAC: valid, enough, and not too much.

use std::collections::BTreeMap;
use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};

use super::cluster::{Cluster, fill, own_address};
use super::migration::{SERVED, is_served};
use crate::apiserver::{Client, NAMESPACE};
use crate::encryption::PROVIDER;
use crate::support::agent::command;
use crate::support::eventually;

const ACCOUNT: &str = "kms-plugin-rewrite";

/// The objects that `render` writes with these arguments.
fn rendered(arguments: &[&str]) -> Vec<Value> {
    let output = command().arg("render").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.split("---\n").map(|document| yaml_serde::from_str(document).unwrap()).collect()
}

/// Creates an object, which must have no field that the API does not know.
async fn create(client: &Client, object: &Value, query: &str) {
    let group = match object["apiVersion"].as_str().unwrap() {
        "v1" => "/api/v1".to_owned(),
        version => format!("/apis/{version}"),
    };
    let namespace = object["metadata"]["namespace"].as_str();
    let namespace = namespace.map(|name| format!("/namespaces/{name}")).unwrap_or_default();
    let plural = object["kind"].as_str().unwrap().to_lowercase() + "s";
    let path = format!("{group}{namespace}/{plural}?fieldValidation=Strict{query}");
    let made = client.call(Method::POST, &path, object).await.unwrap();
    assert_eq!(made.status, 201, "{object}: {made:?}");
}

/// The flags of an API server that writes down who asks for what.
fn audited(directory: &Path, more: &[&str]) -> &'static [&'static str] {
    let policy = directory.join("audit.yaml");
    let text =
        json!({ "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [{ "level": "Metadata" }] });
    std::fs::write(&policy, text.to_string()).unwrap();
    let address = own_address();
    let flags = [
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", directory.join("audit.log").display()),
        // It publishes its address, as on a node.
        "--endpoint-reconciler-type=lease".to_owned(),
        "--bind-address=0.0.0.0".to_owned(),
        format!("--advertise-address={address}"),
    ];
    let flags = flags.into_iter().chain(more.iter().map(|flag| (*flag).to_owned()));
    Vec::leak(flags.map(|flag| &*flag.leak()).collect())
}

/// What the account has asked for: verb, group, resource, namespace and name, or verb and path; and how it was answered.
fn asked(log: &Path) -> BTreeMap<[String; 5], u64> {
    let mut asked = BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap().lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let account = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
        if event["user"]["username"] != account.as_str() || event["stage"] != "ResponseComplete" {
            continue;
        }
        let of = |name: &str| event["objectRef"][name].as_str().unwrap_or_default().to_owned();
        let mut resource = of("resource");
        if resource.is_empty() {
            let uri = event["requestURI"].as_str().unwrap();
            resource = uri.split('?').next().unwrap().to_owned();
        }
        let verb = event["verb"].as_str().unwrap().to_owned();
        let key = [verb, of("apiGroup"), resource, of("namespace"), of("name")];
        asked.insert(key, event["responseStatus"]["code"].as_u64().unwrap());
    }
    asked
}

/// Each single right of a role: verb, group, resource or path, namespace and name; empty where any will do.
fn rights(role: &Value) -> Vec<[String; 5]> {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(|one| one.as_str().unwrap().to_owned()).collect()
    };
    let any = |list: Vec<String>| if list.is_empty() { vec![String::new()] } else { list };
    let namespace = role["metadata"]["namespace"].as_str().unwrap_or_default();
    let mut rights = Vec::new();
    for rule in role["rules"].as_array().unwrap() {
        let resources = [list(&rule["resources"]), list(&rule["nonResourceURLs"])].concat();
        for verb in list(&rule["verbs"]) {
            for group in any(list(&rule["apiGroups"])) {
                for resource in &resources {
                    for name in any(list(&rule["resourceNames"])) {
                        let namespace = namespace.to_owned();
                        rights.push([verb.clone(), group.clone(), resource.clone(), namespace, name]);
                    }
                }
            }
        }
    }
    rights
}

/// Plays kube-controller-manager, which ends each migration in failure at once. The real one does so at an object that is
/// refused (its words: `failMigration` in `pkg/controller/storageversionmigrator`), and takes minutes to build.
async fn fail_migrations(client: Client) {
    let condition = json!({
        "type": "Failed", "status": "True", "reason": "StorageVersionMigrationFailed",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "message": "migration encountered unhandled error: admission webhook \"a.b\" denied the request",
    });
    let (status, merge) =
        (json!({ "status": { "conditions": [condition] } }), "application/merge-patch+json");
    loop {
        for version in ["v1", "v1beta1"] {
            let path = format!("/apis/storagemigration.k8s.io/{version}/storageversionmigrations");
            let Ok(list) = client.get(&path).await else { continue };
            for one in list.json()["items"].as_array().into_iter().flatten() {
                let path = format!("{path}/{}/status", one["metadata"]["name"].as_str().unwrap());
                let _gone = client.call_as(Method::PATCH, &path, &status, merge, "application/json").await;
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

/// The Job's own command line, with the rights of its service account and no others. The login is in a kubeconfig here, and
/// in a pod in its files.
#[tokio::test]
async fn the_job_has_the_rights_that_it_needs_and_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let flags = audited(directory.path(), &[&["--authorization-mode=RBAC"], SERVED].concat());
    let cluster = Cluster::start_with(flags).await;
    let client = &cluster.api.client;
    fill(client, "secrets", 10).await;
    fill(client, "configmaps", 10).await;
    let roles = rendered(&["rbac", "--namespace", NAMESPACE]);
    for object in &roles {
        create(client, object, "").await;
    }
    let image = format!("registry.example/kms-plugin@sha256:{}", "0123456789abcdef".repeat(4));
    let job = ["rewrite-job", "--namespace", NAMESPACE, "--image", &image];
    let job = rendered(&job).pop().unwrap();
    let arguments: Vec<&str> = job["spec"]["template"]["spec"]["containers"][0]["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|argument| argument.as_str().unwrap())
        .collect();

    let path = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNT}/token");
    let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
    let token = client.call(Method::POST, &path, &request).await.unwrap();
    assert_eq!(token.status, 201, "{token:?}");
    let token = token.json()["status"]["token"].as_str().unwrap().to_owned();
    let kubeconfig = cluster.api.kubeconfig_of("account", &token);
    let key_id = cluster.rotate().await;
    let player = tokio::spawn(fail_migrations(client.clone()));
    let mut command = command();
    command.args(&arguments).env("KUBECONFIG", kubeconfig);
    // The directory that the pod mounts.
    command.env("KMS_PLUGIN_SERVER_RUNTIME_DIR", cluster.agent.directory.path().join("run"));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    player.abort();
    let said = format!("{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    // Without --etcd-pki it has no proof. Here is one.
    assert_eq!((output.status.code(), &report["verdict"]), (Some(3), &json!("not_proven")), "{said}");
    let published =
        format!("https://{}:{}", own_address(), cluster.api.address().rsplit(':').next().unwrap());
    let servers = report["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 1, "{said}");
    assert_eq!((&servers[0]["address"], &servers[0]["problem"]), (&json!(published), &Value::Null), "{said}");
    assert!(servers[0]["key_ids"][PROVIDER].as_str().unwrap().starts_with("sha256:"), "{said}");
    for resource in ["secrets", "configmaps"] {
        let ids = cluster.etcd.key_ids(&format!("{resource}/{NAMESPACE}/"), PROVIDER).await;
        assert_eq!(ids.keys().collect::<Vec<_>>(), [&key_id], "{resource}");
    }

    let log = directory.path().join("audit.log");
    let served = is_served(&cluster).await;
    if !served {
        println!("NOT TESTED the rights for migrations: this API server serves none that rewrite uses");
    }
    let asked = eventually("the end of the audit log", async || {
        let asked = asked(&log);
        // Its last request; where no migration is served, the proof in etcd follows the last one.
        if !served || asked.keys().any(|[verb, ..]| verb == "delete") {
            Ok(asked)
        } else {
            Err(format!("{asked:?}"))
        }
    })
    .await;
    let refused: Vec<_> = asked.iter().filter(|(_, code)| **code == 403).collect();
    assert!(refused.is_empty(), "the rights are not enough: {refused:?}");
    let rights: Vec<_> = roles.iter().filter(|role| !role["rules"].is_null()).flat_map(rights).collect();
    assert!(rights.len() >= 12, "{rights:?}");
    for right in
        rights.iter().filter(|right| served || !right.iter().any(|part| part == "storagemigration.k8s.io"))
    {
        let uses = |asked: &[String; 5]| {
            right.iter().zip(asked).enumerate().all(|(at, (right, asked))| {
                // The group of a path, and any namespace or name.
                right == asked || (right.is_empty() && at != 1)
            })
        };
        assert!(asked.keys().any(uses), "the run has not used the right {right:?}: {asked:?}");
    }
    for (verb, resource) in
        [("get", "secrets"), ("update", "secrets"), ("delete", "secrets"), ("list", "pods")]
    {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}"),
                "resourceAttributes": { "verb": verb, "resource": resource, "namespace": NAMESPACE },
            },
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let answer = client.call(Method::POST, path, &review).await.unwrap();
        assert_eq!(answer.json()["status"]["allowed"], false, "{verb} {resource}: {answer:?}");
    }
}

/// kube-apiserver takes the Job, the CronJob and the static pod, and knows each of their fields.
#[tokio::test]
async fn kubernetes_accepts_every_rendered_object() {
    let cluster = Cluster::start().await;
    let client = &cluster.api.client;
    for namespace in [NAMESPACE, "kube-system"] {
        // kube-controller-manager makes it elsewhere, and a pod needs it.
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default", "namespace": namespace },
        });
        create(client, &account, "").await;
    }
    let image = format!("registry.example/kms-plugin@sha256:{}", "0123456789abcdef".repeat(4));
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/config.toml");
    let config = config.display().to_string();
    let job = ["rewrite-job", "--namespace", NAMESPACE, "--image", &image];
    let proven = ["--etcd-pki", "/etc/kubernetes/pki/etcd"];
    let schedule = ["--schedule", "0 3 * * 0"];
    let mut kinds = Vec::new();
    for arguments in [
        job.to_vec(),
        [&job[..], &proven[..]].concat(),
        [&job[..], &schedule[..]].concat(),
        [&job[..], &proven[..], &schedule[..]].concat(),
        vec!["static-pod", "--image", &image, "--config", &config],
        vec!["rbac", "--resources", "secrets,routes.route.openshift.io,*.*"],
    ] {
        for object in rendered(&arguments) {
            create(client, &object, "&dryRun=All").await;
            kinds.push(object["kind"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(kinds[..5], ["Job", "Job", "CronJob", "CronJob", "Pod"], "{kinds:?}");
    // The validation is at work.
    let mut wrong = rendered(&job).pop().unwrap();
    wrong["spec"]["template"]["spec"]["containers"][0]["arguments"] = json!([]);
    let path = format!("/apis/batch/v1/namespaces/{NAMESPACE}/jobs?dryRun=All&fieldValidation=Strict");
    assert_eq!(client.call(Method::POST, &path, &wrong).await.unwrap().status, 400);
}
