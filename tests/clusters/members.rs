//! A cluster that loses members which do not lead: most of them for a while, and one for good.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::balancer::Balancer;
use crate::cluster::Cluster;
use crate::support::agent::{Agent, QUICK};
use crate::support::eventually;
use crate::users::{Outage, on_all_routes, stop};

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_are_lost() {
    let mut cluster = Cluster::start().await;
    let balancer = Balancer::start(&cluster).await;
    let users = on_all_routes(&cluster, &balancer).await;
    let leader = cluster.leader().await;
    let follower = Cluster::others(leader)[0];
    let lost = Instant::now();
    cluster.members[leader].kill();
    cluster.members[follower].kill();
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.restart(leader).await;
    let (_, back) = cluster.new_leader(&[0, 1, 2]).await;
    cluster.restart(follower).await;
    cluster.settled().await;
    for outcome in stop(users, "two of three killed -9", &[Outage { lost, back }]).await {
        outcome.same_key();
    }
}

/// The agent keeps the address of a member that was removed from the cluster, and is the first one in its list.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_follower() {
    let mut cluster = Cluster::start().await;
    let balancer = Balancer::start(&cluster).await;
    let mut addresses = cluster.addresses();
    let leader = cluster.leader().await;
    let removed = Cluster::others(leader)[0];
    addresses.swap(0, removed);
    let removed_first = Agent::ready(&(cluster.config(&addresses) + QUICK)).await;
    let users = on_all_routes(&cluster, &balancer).await;
    let lost = Instant::now();
    cluster.remove(removed, leader).await;
    // There is a leader all the time.
    let back = Instant::now();
    // Longer than HAProxy takes to notice.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let seen = cluster.members[removed].request(reqwest::Method::GET, "sys/health", Value::Null, "").await;
    println!("  the removed member answers sys/health with {seen:?}");
    println!("  the agent says: {}", removed_first.status().unwrap()["primary"]["addresses"][0]);
    cluster.join_again(removed).await;
    cluster.settled().await;
    for outcome in stop(users, "follower removed", &[Outage { lost, back }]).await {
        outcome.same_key();
    }
    eventually("the member that joined again", async || {
        let status = removed_first.status()?;
        let first = &status["primary"]["addresses"][0];
        if first["reachable"] == true { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}
