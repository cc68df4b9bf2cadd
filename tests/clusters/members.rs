//! A cluster that loses members which do not lead: most of them for a while, and one for good.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;

use crate::balancer::Balancer;
use crate::cluster::{ASKED, Cluster, runs_previous};
use crate::support::agent::{Agent, QUICK};
use crate::support::eventually;
use crate::support::kms::SEED;
use crate::support::product::Product;
use crate::users::{Outage, User, on_all_routes, stop};
use crate::watch::Watch;

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
        outcome.in_time();
        outcome.same_key();
    }
}

/// The cure for an agent that has only the address of an OpenBao member that was removed, and of a version that knows no
/// index (docs/operations.md): it must not go on with the old key as if all were well.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_follower_without_standby_reads() {
    if Product::chosen() == Product::Vault {
        println!(
            "NOT TESTED disable_standby_reads: HashiCorp Vault has no such setting, and its standbys do not read"
        );
        return;
    }
    let cluster = Cluster::start_with_settings("disable_standby_reads = true\n").await;
    let leader = cluster.leader().await;
    let removed = Cluster::others(leader)[0];
    let only = Agent::ready(&(cluster.config(&[&cluster.members[removed].address]) + QUICK)).await;
    let before = only.kms().await.round_trip().await.key_id;
    cluster.remove(removed, leader).await;
    // The member has heard nothing of its leader for longer than an election takes.
    tokio::time::sleep(Duration::from_secs(12)).await;
    cluster.members[leader].rotate().await;
    let rotated = Instant::now();
    let seen = eventually("the rotation, or an outage", async || {
        let (phase, line) =
            only.status().map(|status| (status["phase"].clone(), status["line"].to_string()))?;
        let now = only.kms().await.status().await.map_err(|status| status.to_string())?.key_id;
        if now != before || phase != "ready" { Ok(line) } else { Err(line) }
    })
    .await;
    println!(
        "MEASURED a removed member that reads nothing by itself: seen {:.2?} after the rotation: {seen}",
        rotated.elapsed()
    );
    assert!(rotated.elapsed() < Duration::from_secs(60));
}

/// Agents keep the address of a member that was removed from the cluster, and the key is rotated. A removed OpenBao
/// member goes on to answer as a standby, with the old key: the agents must follow the rotation, the one that has only
/// this address, too. A removed Vault member says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_follower() {
    let mut cluster = Cluster::start().await;
    let balancer = Balancer::start(&cluster).await;
    let leader = cluster.leader().await;
    let removed = Cluster::others(leader)[0];
    let mut removed_first = cluster.addresses();
    removed_first.swap(0, removed);
    let only = Agent::ready(&(cluster.config(&[&cluster.members[removed].address]) + QUICK)).await;
    let mut users = on_all_routes(&cluster, &balancer).await;
    users.push(User::start("three addresses, removed one first", &cluster.config(&removed_first)).await);
    let before = users[0].key_id().await;
    let watch = Watch::start(&cluster);
    cluster.remove(removed, leader).await;
    // Longer than HAProxy takes to notice.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let asked = cluster.members[removed].try_request(Method::GET, "sys/health", Value::Null, ASKED).await;
    println!("  the removed member answers sys/health: {asked:?}");
    cluster.members[leader].rotate().await;
    let rotated = Instant::now();
    for user in &users {
        user.follows(&before).await;
    }
    println!("MEASURED a rotation after a removal: announced by all after {:.2?}", rotated.elapsed());
    assert!(rotated.elapsed() < Duration::from_secs(60));
    match Product::chosen() {
        // Nothing that it answers shows that it was removed (docs/operations.md).
        Product::OpenBao if runs_previous() => {
            assert_eq!(only.kms().await.round_trip().await.key_id, before);
            println!(
                "KNOWN FAULT of this version: an agent that has only the removed member's address does not see the rotation"
            );
        }
        Product::OpenBao => {
            eventually("removed member alone: the new key_id", async || {
                let now = only.kms().await.status().await.map_err(|status| status.to_string())?.key_id;
                if now == before { Err(only.log()) } else { Ok(()) }
            })
            .await;
            only.wait_for_phase("ready").await;
        }
        Product::Vault => {
            let status = only.status().unwrap();
            assert_eq!(status["phase"], "degraded", "{status}");
            let reason = status["reason"].to_string();
            assert!(reason.contains("was removed from its cluster"), "{reason}");
            let refused = only.kms().await.encrypt(&SEED).await.unwrap_err();
            assert!(refused.message().contains("was removed from its cluster"), "{refused}");
        }
    }
    println!("  removed member alone: {}", only.status().unwrap()["primary"]["addresses"][0]);
    cluster.join_again(removed).await;
    cluster.settled().await;
    let agents = users.iter().map(|user| (user.route, &user.agent)).chain([("removed member alone", &only)]);
    for (route, agent) in agents {
        eventually(&format!("{route}: the new key_id after the member joined again"), async || {
            let now = agent.kms().await.status().await.map_err(|status| status.to_string())?.key_id;
            if now == before { Err(agent.log()) } else { Ok(()) }
        })
        .await;
        agent.wait_for_phase("ready").await;
    }
    for outcome in stop(users, "follower removed", &watch.stop().await).await {
        outcome.in_time();
    }
}
