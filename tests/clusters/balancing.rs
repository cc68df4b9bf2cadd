//! HAProxy before a cluster: connections that it drops, members that are drained, members that are dead and not yet
//! noticed, and no member at all.

use std::time::{Duration, Instant};

use crate::balancer::{Balancer, CHECKED_EVERY};
use crate::cluster::Cluster;
use crate::network::MEMBERS;
use crate::support::agent::{Agent, QUIET};
use crate::users::{OVER_ALL, Outage, User, stop};

async fn pause(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Agents log in through one member, and read the key through the next one, which may not have replicated the token yet.
#[tokio::test(flavor = "multi_thread")]
async fn spreads_logins() {
    let cluster = Cluster::start().await;
    let balancer = Balancer::start(&cluster).await;
    let config = cluster.config(&[&balancer.spread]) + QUIET;
    let (mut slowest, mut refused) = (Duration::ZERO, 0);
    for _ in 0..3 {
        let began = Instant::now();
        let agents = [(); 4].map(|()| Agent::start(&config));
        for agent in &agents {
            agent.wait_for_phase("ready").await;
            slowest = slowest.max(began.elapsed());
            refused += usize::from(agent.log().contains("(429)"));
        }
    }
    println!(
        "MEASURED 12 agents started by HAProxy over all: {refused} met 429; ready after {slowest:.2?} at most"
    );
    assert_eq!(refused, 0);
    let led: Vec<_> = (0..MEMBERS).map(|member| balancer.led_to(member)).collect();
    assert!(led.iter().all(|count| *count >= 12), "each member serves a part of it: {led:?}");
}

/// Each call comes about when HAProxy closes the idle connection: a little before, at the same time, or a little after.
#[tokio::test(flavor = "multi_thread")]
async fn drops_idle_connections() {
    let cluster = Cluster::start().await;
    let balancer = Balancer::start_dropping(&cluster, "100ms").await;
    let agent = Agent::ready(&(cluster.config(&[&balancer.spread]) + QUIET)).await;
    let mut kms = agent.kms().await;
    let (mut calls, mut failed) = (0, Vec::new());
    for after in (90..=110).cycle().take(210) {
        pause(after).await;
        calls += 1;
        match kms.encrypt(b"any").await {
            Ok(wrapped) => assert_eq!(kms.decrypt(&wrapped).await.unwrap(), b"any"),
            Err(status) => failed.push(status),
        }
    }
    println!("MEASURED idle connections dropped by HAProxy: {calls} Encrypts, {} failed", failed.len());
    println!("  the first one: {:?}", failed.first());
    assert!(failed.is_empty(), "{failed:?}");
    let connections = balancer.connections();
    assert!(connections > calls / 4, "it dropped {connections} connections only");
}

#[tokio::test(flavor = "multi_thread")]
async fn drains_members() {
    let cluster = Cluster::start().await;
    let balancer = Balancer::start(&cluster).await;
    let users = vec![User::start(OVER_ALL, &cluster.config(&[&balancer.spread])).await];
    for state in ["drain", "maint"] {
        for member in 0..MEMBERS {
            balancer.set_state(member, state);
            pause(100).await;
            let (status, led) = (balancer.status(member), balancer.led_to(member));
            assert!(status.starts_with(&state.to_uppercase()), "{status}");
            pause(400).await;
            assert_eq!(balancer.led_to(member), led, "no more requests are led to it");
            balancer.set_state(member, "ready");
            pause(100).await;
        }
    }
    for outcome in stop(users, "members drained", &[]).await {
        outcome.none_failed();
        outcome.same_key();
    }
}

/// How a member is lost that HAProxy still believes in. HAProxy answers 503 or 504 by itself; or, where it has sent the
/// request on a connection that it had before, it closes the client's connection without an answer.
#[derive(Clone, Copy, Debug)]
enum Dead {
    /// Its port refuses connections.
    Killed,
    /// Nothing answers.
    CutOff,
    /// It accepts connections and answers nothing.
    Frozen,
    /// It ends while requests wait for its answer.
    KilledInRequests,
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_dead_members() {
    let mut cluster = Cluster::start().await;
    for dead in [Dead::Killed, Dead::CutOff, Dead::Frozen, Dead::KilledInRequests] {
        let balancer = Balancer::start(&cluster).await;
        let follower = Cluster::others(cluster.leader().await)[0];
        let checked = balancer.checked(follower).await;
        let user = User::start(OVER_ALL, &cluster.config(&[&balancer.spread])).await;
        // A little after a check: the next one is nearly ten seconds away.
        let since = Duration::from_nanos((checked.elapsed().as_nanos() % CHECKED_EVERY.as_nanos()) as u64);
        tokio::time::sleep(CHECKED_EVERY - since + Duration::from_millis(300)).await;
        let lost = Instant::now();
        match dead {
            Dead::Killed => cluster.members[follower].kill(),
            Dead::CutOff => cluster.network.cut(follower),
            Dead::Frozen => cluster.members[follower].freeze(),
            Dead::KilledInRequests => {
                cluster.members[follower].freeze();
                pause(500).await;
                cluster.members[follower].kill();
            }
        }
        balancer.noticed(follower, false).await;
        let back = Instant::now();
        assert!(back - lost > CHECKED_EVERY / 2, "{dead:?}: HAProxy noticed after {:?}", back - lost);
        pause(2000).await;
        match dead {
            Dead::Killed | Dead::KilledInRequests => cluster.restart(follower).await,
            Dead::CutOff => cluster.network.mend(follower),
            Dead::Frozen => cluster.members[follower].thaw(),
        }
        balancer.noticed(follower, true).await;
        cluster.settled().await;
        println!(
            "  HAProxy answered by itself: 502 {}, 503 {}, 504 {}",
            balancer.own_answers(502),
            balancer.own_answers(503),
            balancer.own_answers(504)
        );
        assert!(balancer.own_answers(503) + balancer.own_answers(504) > 0, "{dead:?}");
        let what = format!("dead member kept by HAProxy, {dead:?}");
        // The leader is there all the time.
        for outcome in stop(vec![user], &what, &[Outage { lost, back }]).await {
            outcome.none_failed();
            outcome.same_key();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn has_no_member() {
    let cluster = Cluster::start().await;
    let balancer = Balancer::start(&cluster).await;
    let user = User::start(OVER_ALL, &cluster.config(&[&balancer.spread])).await;
    let lost = Instant::now();
    (0..MEMBERS).for_each(|member| balancer.set_state(member, "maint"));
    let status = user.agent.wait_for_reason("degraded", "unreachable").await;
    println!("  the agent says: {}", status["reason"]["text"]);
    assert!(balancer.own_answers(503) > 0);
    pause(2000).await;
    (0..MEMBERS).for_each(|member| balancer.set_state(member, "ready"));
    let back = Instant::now();
    for outcome in stop(vec![user], "no member", &[Outage { lost, back }]).await {
        outcome.in_time();
        outcome.same_key();
    }
}

/// HAProxy's own pages of HTML, for all requests of a while.
#[tokio::test(flavor = "multi_thread")]
async fn answers_by_itself() {
    let cluster = Cluster::start().await;
    let balancer = Balancer::start(&cluster).await;
    for status in [502, 503, 504] {
        let user = User::start(OVER_ALL, &cluster.config(&[&balancer.spread])).await;
        let lost = Instant::now();
        balancer.answer(status);
        user.agent.wait_for_reason("degraded", "unreachable").await;
        pause(2000).await;
        balancer.answer(0);
        let back = Instant::now();
        assert!(balancer.own_answers(status) > 0, "{status}");
        for outcome in stop(vec![user], &format!("HAProxy answers {status}"), &[Outage { lost, back }]).await
        {
            outcome.in_time();
            outcome.same_key();
        }
    }
}
