//! `kms-plugin rewrite` where an admission webhook refuses the writes in one namespace, or does not answer.

use reqwest::Method;
use serde_json::{Value, json};

use super::cluster::{Cluster, fill, make_namespace};
use crate::apiserver::NAMESPACE;
use crate::encryption::PROVIDER;
use crate::support::eventually;
use crate::webhook::{NAME, REFUSAL, Webhook};

/// The namespace that the webhook refuses, and the objects in it. It refuses two with the status of a conflict, which is
/// none, and of an API server that is busy, which is not.
const CLOSED: &str = "closed";
const KEPT: [&str; 3] = ["kept", "kept-409", "kept-429"];
pub const ONE: &str = "/api/v1/namespaces/closed/secrets/kept";
/// The way out that docs/operations.md names.
const CHANGES_ONLY: &str = "object != oldObject";

/// Objects in two namespaces, of which the webhook refuses one.
pub async fn refused(cluster: &Cluster) -> Webhook {
    let client = &cluster.api.client;
    fill(client, "secrets", 50).await;
    make_namespace(client, CLOSED).await;
    for name in KEPT {
        let object = json!({ "metadata": { "name": name }, "data": { "text": "dmFsdWU=" } });
        let made = client.call(Method::POST, "/api/v1/namespaces/closed/secrets", &object).await.unwrap();
        assert_eq!(made.status, 201, "{made:?}");
    }
    let webhook = Webhook::start(client, CLOSED).await;
    Webhook::in_force(client, ONE, 400).await;
    webhook
}

/// Everything outside the namespace is done, and the report names the objects, who refused them, its words, and the way
/// out.
pub async fn assert_refused(cluster: &Cluster, (code, report): (i32, Value), key_id: &str) {
    assert_eq!((code, &report["verdict"]), (1, &json!("left")), "{report}");
    let secrets = &report["resources"]["secrets"];
    assert_eq!(
        (&secrets["failed"], secrets["problems"].as_array().unwrap().len()),
        (&json!(3), 1),
        "{report}"
    );
    let problem = &secrets["problems"][0];
    assert_eq!((&problem["kind"], &problem["by"]), (&json!("admission"), &json!(NAME)), "{report}");
    let mut examples: Vec<&str> =
        problem["examples"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    examples.sort_unstable();
    let kept = KEPT.map(|name| format!("closed/{name}"));
    assert_eq!(
        (&problem["objects"], examples.as_slice()),
        (&json!(3), kept.each_ref().map(String::as_str).as_slice()),
        "{report}"
    );
    assert!(problem["message"].as_str().unwrap().contains(REFUSAL), "{report}");
    assert!(problem["remedy"].as_str().unwrap().contains(CHANGES_ONLY), "{report}");
    let left = report["verification"].to_string();
    assert!(left.contains("closed/kept"), "etcd proves that it is left, too: {report}");
    let ids = cluster.etcd.key_ids(&format!("secrets/{NAMESPACE}/"), PROVIDER).await;
    assert_eq!(ids.keys().collect::<Vec<_>>(), [key_id]);
    let ids = cluster.etcd.key_ids("secrets/closed/", PROVIDER).await;
    assert!(!ids.contains_key(key_id), "{ids:?}");
}

/// Somebody else's refusal is no sign that the API server is busy, or that the object was written meanwhile.
#[tokio::test]
async fn a_webhook_that_refuses_one_namespace_is_named_and_its_remedy_helps() {
    let cluster = Cluster::start().await;
    let client = &cluster.api.client;
    let webhook = refused(&cluster).await;
    let key_id = cluster.rotate().await;
    let before = webhook.asked();
    let ended = cluster.rewrite(&cluster.etcd_arguments()).await;
    assert!(webhook.asked() >= before + 53, "each write has passed the webhook");
    assert_refused(&cluster, ended, &key_id).await;

    // The text says the same, for people.
    let (code, text) = cluster.rewrite(&["--output", "text"]).await;
    let text = text["text"].as_str().unwrap().to_owned();
    assert_eq!(code, 1, "{text}");
    for words in [NAME, "closed/kept", REFUSAL, "remedy: ", CHANGES_ONLY, "run the same command again"] {
        assert!(text.contains(words), "{words:?} is missing: {text}");
    }

    // The way out: the webhook is asked for changes only, and goes on to refuse them.
    let changes = json!({ "matchConditions": [{ "name": "changes", "expression": CHANGES_ONLY }] });
    webhook.configure(client, &changes).await;
    // The API server takes a moment to see a configuration.
    let report = eventually("a rewrite that nobody refuses", async || {
        match cluster.rewrite(&cluster.etcd_arguments()).await {
            (0, report) => Ok(report),
            (_, report) => Err(report.to_string()),
        }
    })
    .await;
    assert_eq!(report["verdict"], "proven", "{report}");
    cluster.all_under(&key_id).await;
    Webhook::in_force(client, ONE, 400).await;
}

#[tokio::test]
async fn a_webhook_that_does_not_answer_is_named_and_its_remedy_helps() {
    let cluster = Cluster::start().await;
    let client = &cluster.api.client;
    let webhook = refused(&cluster).await;
    let key_id = cluster.rotate().await;
    webhook.stop_for(client, ONE).await;
    let arguments = ["--resource", "secrets", "--patience", "3s"];
    let (code, report) = cluster.rewrite(&[&arguments[..], &cluster.etcd_arguments()[..]].concat()).await;
    assert_eq!((code, &report["verdict"]), (1, &json!("left")), "{report}");
    let problem = &report["resources"]["secrets"]["problems"][0];
    assert_eq!((&problem["kind"], &problem["by"]), (&json!("webhook_away"), &json!(NAME)), "{report}");
    assert!(problem["remedy"].as_str().unwrap().contains("failurePolicy"), "{report}");
    // It does not pass each object of a large cluster to a webhook that is away.
    let why = report["resources"]["secrets"]["list_problem"].as_str().unwrap();
    assert!(why.contains("no write has worked for 3s"), "{report}");
    assert!(report["resources"]["secrets"]["failed"].as_u64().unwrap() < 50, "{report}");

    webhook.configure(client, &json!({ "failurePolicy": "Ignore" })).await;
    Webhook::in_force(client, ONE, 200).await;
    let (code, report) = cluster.rewrite(&cluster.etcd_arguments()).await;
    assert_eq!((code, &report["verdict"]), (0, &json!("proven")), "{report}");
    cluster.all_under(&key_id).await;
}
