//! `kms-plugin rewrite` where the API server serves StorageVersionMigration.

use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::cluster::{Cluster, fill};
use super::webhook;
use crate::apiserver::ApiServer;
use crate::encryption::PROVIDER;
use crate::support::eventually;

/// Kubernetes 1.34 serves another form of it, which names versions of resources: there it is as if none were served.
pub const SERVED: &[&str] = &["--feature-gates=StorageVersionMigrator=true", "--runtime-config=api/all=true"];

/// The default, and so not that of the tests.
const AUTO: &[&str] = &["--method", "auto"];

/// A real kube-controller-manager, with the two controllers that a migration needs.
struct ControllerManager(Child);

impl ControllerManager {
    fn start(api: &ApiServer) -> Self {
        let log = std::fs::File::create(api.kubeconfig().with_file_name("controller-manager.log")).unwrap();
        let child = Command::new(crate::path_of("KMS_E2E_CONTROLLER_MANAGER"))
            .arg(format!("--kubeconfig={}", api.kubeconfig().display()))
            .args(["--controllers=garbage-collector-controller,storage-version-migrator-controller"])
            .args(["--feature-gates=StorageVersionMigrator=true", "--leader-elect=false", "--secure-port=0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for ControllerManager {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _waited = self.0.wait();
    }
}

#[tokio::test]
#[ignore = "kube-controller-manager takes minutes to build: tests/e2e/run --migrations runs it"]
async fn a_migration_by_kube_controller_manager_is_watched_and_proven() {
    let cluster = Cluster::start_with(SERVED).await;
    fill(&cluster.api.client, "secrets", 300).await;
    fill(&cluster.api.client, "configmaps", 100).await;
    let _manager = ControllerManager::start(&cluster.api);
    let key_id = cluster.rotate().await;
    let etcd = cluster.etcd_arguments();
    let (code, report) = cluster.rewrite(&[&etcd[..], AUTO].concat()).await;
    assert_eq!((code, &report["verdict"]), (0, &json!("proven")), "{report}");
    eprintln!("MEASURED 400 objects by two StorageVersionMigrations: {} s", report["seconds"]);
    for resource in ["secrets", "configmaps"] {
        assert_eq!(report["resources"][resource]["by_migration"], true, "{report}");
        let ids = cluster.etcd.key_ids(&format!("{resource}/"), PROVIDER).await;
        assert_eq!(ids.keys().collect::<Vec<_>>(), [&key_id], "{resource}");
    }
}

/// The controller ends the migration at the first object that is refused. The others are written from here.
#[tokio::test]
#[ignore = "kube-controller-manager takes minutes to build: tests/e2e/run --migrations runs it"]
async fn a_migration_by_kube_controller_manager_that_a_webhook_refuses_is_finished_from_here() {
    let cluster = Cluster::start_with(SERVED).await;
    let _webhook = webhook::refused(&cluster).await;
    let _manager = ControllerManager::start(&cluster.api);
    let key_id = cluster.rotate().await;
    let (code, report) = cluster.rewrite(&[&cluster.etcd_arguments()[..], AUTO].concat()).await;
    assert_eq!(report["resources"]["secrets"]["by_migration"], false, "{report}");
    assert_eq!(report["resources"]["configmaps"]["by_migration"], true, "{report}");
    webhook::assert_refused(&cluster, (code, report), &key_id).await;
    assert_eq!(migrations(&cluster).await, 0, "they are removed");
}

/// The controller tries an object that fails with an internal error without end, and its status does not say so.
#[tokio::test]
#[ignore = "kube-controller-manager takes minutes to build: tests/e2e/run --migrations runs it"]
async fn a_migration_by_kube_controller_manager_that_does_not_end_is_finished_from_here() {
    let cluster = Cluster::start_with(SERVED).await;
    let webhook = webhook::refused(&cluster).await;
    let _manager = ControllerManager::start(&cluster.api);
    webhook.stop_for(&cluster.api.client, webhook::ONE).await;
    cluster.rotate().await;
    let arguments = ["--resource", "secrets", "--patience", "10s"];
    let etcd = cluster.etcd_arguments();
    let (code, report) = cluster.rewrite(&[&arguments[..], &etcd[..], AUTO].concat()).await;
    assert_eq!((code, &report["verdict"]), (1, &json!("left")), "{report}");
    let secrets = &report["resources"]["secrets"];
    assert_eq!(secrets["by_migration"], false, "{report}");
    assert_eq!(secrets["problems"][0]["kind"], "webhook_away", "{report}");
    assert_eq!(migrations(&cluster).await, 0, "they are removed");
}

/// Where a StorageVersionMigration is served and kube-controller-manager does not begin it, the objects are written from
/// here. (This API server has none.)
#[tokio::test]
async fn a_migration_that_nobody_begins_is_done_from_here() {
    let cluster = Cluster::start_with(SERVED).await;
    fill(&cluster.api.client, "secrets", 20).await;
    fill(&cluster.api.client, "configmaps", 20).await;
    let key_id = cluster.rotate().await;
    if !is_served(&cluster).await {
        let (code, report) = cluster.rewrite(&[&cluster.etcd_arguments()[..], AUTO].concat()).await;
        assert_eq!((code, &report["verdict"]), (0, &json!("proven")), "{report}");
        assert!(report["seconds"].as_u64().unwrap() < 60, "it waits for nobody: {report}");
        println!("NOT TESTED a migration that nobody begins: this API server serves none that rewrite uses");
        return;
    }
    // The first run is killed while it waits, and its migration stays.
    let mut run = cluster.begin(AUTO);
    eventually("the migration", async || {
        if migrations(&cluster).await > 0 { Ok(()) } else { Err("none is made".to_owned()) }
    })
    .await;
    run.kill().unwrap();
    run.wait().unwrap();
    assert_eq!(migrations(&cluster).await, 1);
    let etcd = cluster.etcd_arguments();
    let (code, report) = cluster.rewrite(&[&etcd[..], AUTO].concat()).await;
    assert_eq!((code, &report["verdict"]), (0, &json!("proven")), "{report}");
    for resource in ["configmaps", "secrets"] {
        assert_eq!(report["resources"][resource]["by_migration"], false, "{report}");
    }
    // It has waited once, and not for each resource.
    assert!((60..120).contains(&report["seconds"].as_u64().unwrap()), "{report}");
    let ids = cluster.etcd.key_ids("secrets/", PROVIDER).await;
    assert_eq!(ids.keys().collect::<Vec<_>>(), [&key_id]);
    assert_eq!(migrations(&cluster).await, 0, "they are removed");
}

/// Whether the API server serves migrations in a form that `rewrite` uses.
pub async fn is_served(cluster: &Cluster) -> bool {
    let client = &cluster.api.client;
    for version in ["v1", "v1beta1"] {
        if client.get(&format!("/apis/storagemigration.k8s.io/{version}")).await.unwrap().status == 200 {
            return true;
        }
    }
    false
}

/// How many migrations there are, of whatever version.
async fn migrations(cluster: &Cluster) -> usize {
    let mut found = 0;
    for version in ["v1", "v1beta1", "v1alpha1"] {
        let path = format!("/apis/storagemigration.k8s.io/{version}/storageversionmigrations");
        let list = cluster.api.client.get(&path).await.unwrap();
        if list.status != 404 {
            // A version shows those of the others, too.
            found = found.max(list.json()["items"].as_array().unwrap().len());
        }
    }
    found
}
