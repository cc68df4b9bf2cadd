//! A cluster whose members are restarted or upgraded, one after the other and the leader last, as both products' guides
//! say.

use std::path::PathBuf;
use std::time::Instant;

use reqwest::Method;
use serde_json::Value;

use crate::balancer::Balancer;
use crate::cluster::{Cluster, previous};
use crate::support::product::Product;
use crate::users::{Outage, on_all_routes, stop};
use crate::watch::Watch;

#[tokio::test(flavor = "multi_thread")]
async fn restart() {
    let product = Product::chosen();
    roll("rolling restart", product, product.program()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade() {
    let product = Product::chosen();
    roll("rolling upgrade", product, previous(product)).await;
}

/// Restarts each member, from this program to the product's own.
async fn roll(what: &str, product: Product, from: PathBuf) {
    let mut cluster = Cluster::start_with(product, &from, "").await;
    let before = version(&cluster, 0).await;
    let balancer = Balancer::start(&cluster).await;
    let users = on_all_routes(&cluster, &balancer).await;
    let mut outages = Vec::new();
    // Calls may fail where the leader ends, and while there is none.
    let watch = Watch::start(&cluster);
    let leader = cluster.leader().await;
    for member in [Cluster::others(leader), vec![leader]].concat() {
        // An election in between may have made another member the leader.
        let led = cluster.leader().await == member;
        cluster.members[member].set_program(product.program());
        let lost = Instant::now();
        cluster.members[member].terminate();
        if led {
            let (_, back) = cluster.new_leader(&Cluster::others(member)).await;
            outages.push(Outage { lost, back });
        }
        cluster.restart(member).await;
        cluster.settled().await;
    }
    outages.extend(watch.stop().await);
    let after = version(&cluster, 0).await;
    assert_eq!(from == product.program(), before == after, "{before}, {after}");
    assert_eq!([version(&cluster, 1).await, version(&cluster, 2).await], [after.clone(), after.clone()]);
    let what = if before == after { what.to_owned() } else { format!("{what} from {before} to {after}") };
    for outcome in stop(users, &what, &outages).await {
        outcome.in_time();
        outcome.same_key();
    }
}

async fn version(cluster: &Cluster, member: usize) -> String {
    let path = "sys/health?standbyok=true&perfstandbyok=true";
    let (_, health) = cluster.members[member].request(Method::GET, path, Value::Null, "").await;
    health["version"].as_str().unwrap().to_owned()
}
