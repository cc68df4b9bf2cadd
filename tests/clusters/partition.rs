//! A follower that is cut off from the other members, while agents and HAProxy still reach it: a standby that is behind,
//! and does not know it. The key is rotated meanwhile.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::balancer::Balancer;
use crate::cluster::Cluster;
use crate::network::Lost;
use crate::support::eventually;
use crate::support::vault::{KEY, policy};
use crate::users::{OVER_ALL, Outage, User, on_all_routes, stop};
use crate::watch::Watch;

/// The cut before the rotation: the follower has missed heartbeats for longer than an election takes.
const BEFORE: Duration = Duration::from_secs(4);
/// The rest of the cut: longer than three looks at a key that seems rolled back, which are 4 s apart.
const AFTER: Duration = Duration::from_secs(15);
/// How late agents may follow a rotation that they can see.
const FOLLOWED: Duration = Duration::from_secs(10);
/// How late an agent may follow that has only the follower's address: the follower itself must find its leader first,
/// and the agent then waits for up to 6 s (docs/performance.md).
const HEALED: Duration = Duration::from_secs(30);
/// HAProxy goes on to lead a third of the requests to the follower, where some hang: a call fails when all of its attempts
/// are led there. At most one call in so many.
const UNLUCKY: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn all_traffic() {
    partition("follower cut off from its peers", Lost::All, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_it() {
    partition("follower cut off from its peers, one way: from it", Lost::FromIt, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn to_it() {
    partition("follower cut off from its peers, one way: to it", Lost::ToIt, None).await;
}

/// Tokens that must be renewed, or replaced, while the follower knows nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn with_short_tokens() {
    partition("follower cut off from its peers, tokens of 10 s", Lost::All, Some("10s")).await;
}

async fn partition(what: &str, lost: Lost, token_ttl: Option<&str>) {
    let cluster = Cluster::start().await;
    if let Some(ttl) = token_ttl {
        let renewing = "path \"auth/token/renew-self\" { capabilities = [\"update\"] }";
        cluster.members[0].put_policy("kms", &format!("{}\n{renewing}", policy("transit", KEY))).await;
        cluster.members[0].approle("kms", json!({ "token_ttl": ttl })).await;
    }
    let balancer = Balancer::start(&cluster).await;
    let follower = Cluster::others(cluster.leader().await)[0];
    let mut follower_first = cluster.addresses();
    follower_first.swap(0, follower);
    let alone =
        User::start("that follower alone", &cluster.config(&[&cluster.members[follower].address])).await;
    let mut users = on_all_routes(&cluster, &balancer).await;
    users.push(User::start("three addresses, that follower first", &cluster.config(&follower_first)).await);
    let before = users[0].key_id().await;
    let watch = Watch::start(&cluster);

    let cut = Instant::now();
    cluster.network.part(follower, lost);
    tokio::time::sleep(BEFORE).await;
    let leader = cluster.leader().await;
    assert_ne!(leader, follower);
    cluster.members[leader].rotate().await;
    let rotated = Instant::now();
    for user in &users {
        user.follows(&before).await;
    }
    let followed = rotated.elapsed();
    let new = users[0].key_id().await;
    let mut unread = Vec::new();
    while rotated.elapsed() < AFTER {
        for user in &users {
            // The follower's old state must not bring the old key_id back.
            assert_eq!(user.key_id().await, new, "{}\n{}", user.route, user.agent.log());
            if user.route == OVER_ALL {
                continue;
            }
            let wrapped = user.encrypt().await;
            assert_eq!(wrapped.key_id, new, "{}", user.route);
            for reader in &users {
                match reader.route {
                    OVER_ALL => reader.reads_or_is_away(&wrapped).await,
                    _ => reader.reads(&wrapped, user.route).await,
                }
            }
            alone.reads_or_is_away(&wrapped).await;
            unread.push(wrapped);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("  {} during the cut: {}", alone.route, alone.agent.status().unwrap());

    cluster.network.join(follower);
    let healed = Instant::now();
    eventually(&format!("{}: the new key_id", alone.route), async || {
        let status = alone.agent.kms().await.status().await.map_err(|status| status.to_string())?;
        if status.key_id == new && status.healthz == "ok" { Ok(()) } else { Err(alone.agent.log()) }
    })
    .await;
    let (back, late) = (Instant::now(), healed.elapsed());
    for wrapped in &unread {
        alone.reads(wrapped, "another one, during the cut,").await;
    }
    for user in &users {
        alone.reads(&user.encrypt().await, user.route).await;
        user.reads(&alone.encrypt().await, alone.route).await;
    }
    cluster.settled().await;
    println!(
        "MEASURED {what}: a rotation announced by all others after {followed:.2?}; that follower alone: {late:.2?} after \
         the end of the cut"
    );
    assert!(followed < FOLLOWED && late < HEALED, "{what}: {followed:?}, {late:?}");
    for outcome in stop(vec![alone], what, &[Outage { lost: cut, back }]).await {
        outcome.in_time();
    }
    // The leader stays, unless the follower's return costs an election.
    let leaderless = watch.stop().await;
    let (balanced, direct) = users.into_iter().partition(|user| user.route == OVER_ALL);
    for outcome in stop(direct, what, &leaderless).await {
        outcome.in_time();
    }
    let hangs = [vec![Outage { lost: cut, back: healed }], leaderless].concat();
    for outcome in stop(balanced, what, &hangs).await {
        outcome.in_time();
        outcome.few_failed(UNLUCKY);
    }
}
