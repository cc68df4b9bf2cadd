//! A key that is rotated while agents use the cluster through different members, of which two are standbys.

use std::time::{Duration, Instant};

use crate::balancer::Balancer;
use crate::cluster::Cluster;
use crate::support::agent::Agent;
use crate::support::eventually;
use crate::users::{OVER_ALL, User, stop};

const ROTATIONS: usize = 5;
/// By when a rotation is used at the default intervals, on every way to the cluster: 60 s, and a second for the look itself.
const USED: Duration = Duration::from_secs(61);

#[tokio::test(flavor = "multi_thread")]
async fn seen_through_different_members() {
    let cluster = Cluster::start().await;
    let balancer = Balancer::start(&cluster).await;
    let leader = cluster.leader().await;
    let [one, two] = Cluster::others(leader)[..] else { unreachable!() };
    let only = |member: usize| cluster.config(&[&cluster.members[member].address]);
    let users = vec![
        User::start("the leader alone", &only(leader)).await,
        User::start("one standby alone", &only(one)).await,
        User::start("the other standby alone", &only(two)).await,
        User::start(OVER_ALL, &cluster.config(&[&balancer.spread])).await,
    ];
    let (mut slowest, mut unreadable) = (Duration::ZERO, Duration::ZERO);
    let mut known = users[0].key_id().await;
    for _ in 0..ROTATIONS {
        cluster.members[leader].rotate().await;
        let rotated = Instant::now();
        let mut announced = String::new();
        for user in &users {
            announced = user.follows(&known).await;
        }
        slowest = slowest.max(rotated.elapsed());
        // What one node writes, each other one must read at its first call, as the API server's own calls do.
        for user in &users {
            let wrapped = user.encrypt().await;
            let written = Instant::now();
            for reader in &users {
                reader.reads(&wrapped, user.route).await;
            }
            unreadable = unreadable.max(written.elapsed());
        }
        eventually("one key_id everywhere", async || {
            for user in &users {
                let now = user.key_id().await;
                if now != announced {
                    return Err(format!("{}: {now}, not {announced}", user.route));
                }
            }
            Ok(())
        })
        .await;
        known = announced;
    }
    assert!(slowest < USED, "{slowest:?}");
    println!(
        "MEASURED {ROTATIONS} rotations: announced by all after {slowest:.2?} at most; read by all after \
         {unreadable:.2?} at most"
    );
    // An OpenBao standby is late by a moment, and HAProxy leads to it after the leader has told of the new version.
    for outcome in stop(users, "rotations", &[]).await {
        outcome.none_failed();
    }
}

/// Nobody calls, and the intervals are the defaults: through HAProxy over all, and through one standby alone.
#[tokio::test(flavor = "multi_thread")]
async fn seen_at_the_default_intervals() {
    let cluster = Cluster::start().await;
    let balancer = Balancer::start(&cluster).await;
    let leader = cluster.leader().await;
    let standby = &cluster.members[Cluster::others(leader)[0]].address;
    let agents = [
        (OVER_ALL, Agent::ready(&cluster.config(&[&balancer.spread])).await),
        ("one standby alone", Agent::ready(&cluster.config(&[standby])).await),
    ];
    let key_id = async |agent: &Agent| agent.kms().await.status().await.unwrap().key_id;
    let before = key_id(&agents[0].1).await;
    cluster.members[leader].rotate().await;
    let rotated = Instant::now();
    for (route, agent) in &agents {
        eventually(&format!("{route}: the new key_id"), async || match key_id(agent).await {
            now if now == before => Err(agent.log()),
            _ => Ok(()),
        })
        .await;
        let took = rotated.elapsed();
        println!("MEASURED a rotation at the default intervals; {route}: announced after {took:.2?}");
        assert!(took < USED, "{route}: {took:?}");
    }
}
