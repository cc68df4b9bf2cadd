//! A key that is rotated while agents use the cluster through different members, of which two are standbys.

use std::time::{Duration, Instant};

use crate::balancer::Balancer;
use crate::cluster::Cluster;
use crate::support::eventually;
use crate::users::{OVER_ALL, User, stop};

const ROTATIONS: usize = 5;

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
    println!(
        "MEASURED {ROTATIONS} rotations: announced by all after {slowest:.2?} at most; read by all after \
         {unreadable:.2?} at most"
    );
    // An OpenBao standby is late by a moment, and HAProxy leads to it after the leader has told of the new version.
    for outcome in stop(users, "rotations", &[]).await {
        outcome.none_failed();
    }
}
