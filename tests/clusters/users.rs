//! Those who use a cluster: agents that reach it on different routes, each under a steady load.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kms_plugin::proto::EncryptResponse;
use tonic::Code;

use crate::balancer::Balancer;
use crate::cluster::Cluster;
use crate::support::agent::{Agent, QUICK};
use crate::support::eventually;
use crate::support::kms::{DEADLINE, SEED};
use crate::support::load::{Call, Calls, Load};

/// What calls may fail with while a cluster has no leader.
const AWAY: [Code; 2] = [Code::Unavailable, Code::DeadlineExceeded];

/// The routes to a cluster that most tests take.
pub const ADDRESSES: &str = "three addresses";
pub const OVER_ALL: &str = "HAProxy over all";
pub const TO_LEADER: &str = "HAProxy to the leader";

/// How long calls may fail after a leader serves again.
const LATE: Duration = Duration::from_secs(2);

/// An outage: from the loss of a leader, or of a member, until a leader serves.
#[derive(Clone, Copy)]
pub struct Outage {
    pub lost: Instant,
    pub back: Instant,
}

/// One agent and its load.
pub struct User {
    /// How it reaches the cluster.
    pub route: &'static str,
    pub agent: Agent,
    key_id: String,
    load: Load,
}

/// What became of a user.
pub struct Outcome {
    pub route: &'static str,
    pub calls: Calls,
    /// From the end of the outage to the start of the last call that failed. Zero, when none failed after it.
    pub late: Duration,
    /// The key_ids before and after.
    key_ids: [String; 2],
    log: String,
}

/// Agents on three routes: the members' addresses, HAProxy over all members, HAProxy to the leader.
pub async fn on_all_routes(cluster: &Cluster, balancer: &Balancer) -> Vec<User> {
    vec![
        User::start(ADDRESSES, &cluster.config(&cluster.addresses())).await,
        User::start(OVER_ALL, &cluster.config(&[&balancer.spread])).await,
        User::start(TO_LEADER, &cluster.config(&[&balancer.leader])).await,
    ]
}

/// Ends all loads.
pub async fn stop(users: Vec<User>, what: &str, outages: &[Outage]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for user in users {
        outcomes.push(user.stop(what, outages).await);
    }
    for outcome in &outcomes {
        outcome.check(what, outages);
    }
    outcomes
}

impl User {
    pub async fn start(route: &'static str, config: &str) -> Self {
        let agent = Agent::ready(&(config.to_owned() + QUICK)).await;
        let mut kms = agent.kms().await;
        // A standby of a new cluster may refuse the first calls.
        let first = eventually("a first call", async || {
            kms.encrypt(&SEED).await.map_err(|status| {
                println!("{route}: the first call failed: {status}");
                status.to_string()
            })
        })
        .await;
        let load = Load::start_with_deadline(&agent.socket(), &first);
        Self { route, agent, key_id: first.key_id, load }
    }

    /// What the agent announces.
    pub async fn key_id(&self) -> String {
        self.agent.kms().await.status().await.unwrap().key_id
    }

    /// Waits until the agent announces another key_id than this one: the new one.
    pub async fn follows(&self, before: &str) -> String {
        eventually(&format!("{}: the new key_id", self.route), async || match self.key_id().await {
            now if now == before => Err(self.agent.log()),
            now => Ok(now),
        })
        .await
    }

    pub async fn encrypt(&self) -> EncryptResponse {
        let wrapped = self.agent.kms().await.within(DEADLINE).encrypt(&SEED).await;
        wrapped.unwrap_or_else(|status| panic!("{}: {status}\n{}", self.route, self.agent.log()))
    }

    /// Fails when it does not read at once what another one wrote.
    pub async fn reads(&self, wrapped: &EncryptResponse, writer: &str) {
        let read = self.agent.kms().await.within(DEADLINE).decrypt(wrapped).await;
        let read = read.unwrap_or_else(|status| {
            panic!("{} cannot read what {writer} wrote: {status}\n{}", self.route, self.agent.log())
        });
        assert_eq!(read, SEED, "{}", self.route);
    }

    /// The same, of what the server may be unable to read. Fails on a refusal: the server cannot know better.
    pub async fn reads_or_is_away(&self, wrapped: &EncryptResponse) {
        let begun = Instant::now();
        match self.agent.kms().await.within(DEADLINE).decrypt(wrapped).await {
            Ok(read) => assert_eq!(read, SEED, "{}", self.route),
            Err(status) => {
                let text = status.message().to_owned();
                let call = Call { ended: Instant::now(), took: begun.elapsed(), code: status.code(), text };
                assert!(is_of_an_outage(&call), "{}: {call:?}\n{}", self.route, self.agent.log());
            }
        }
    }

    /// Ends the load once the agent is ready and calls succeed again. The load has checked each byte.
    async fn stop(self, what: &str, outages: &[Outage]) -> Outcome {
        self.agent.wait_for_phase("ready").await;
        let calls = self.load.stop().await;
        let failed = calls.failed();
        let late = failed.iter().map(|call| after(call, outages)).max().unwrap_or_default();
        let mut away: Vec<_> =
            outages.iter().map(|outage| format!("{:.2?}", outage.back - outage.lost)).collect();
        if away.is_empty() {
            away.push("none".to_owned());
        }
        println!(
            "MEASURED {what}; {}: {} calls, {} failed, slowest {:.2?}; outage {}; last failing call begun {late:.2?} later",
            self.route,
            calls.0.len(),
            failed.len(),
            calls.0.iter().map(|call| call.took).max().unwrap_or_default(),
            away.join(", "),
        );
        let mut texts = BTreeMap::<String, usize>::new();
        for call in failed {
            *texts.entry(format!("{:?}: {}", call.code, call.text)).or_default() += 1;
        }
        for (text, count) in texts {
            println!("  {count} × {text}");
        }
        let now = self.agent.kms().await.status().await.unwrap();
        assert_eq!(now.healthz, "ok", "{what}; {}", self.route);
        Outcome { route: self.route, calls, late, key_ids: [self.key_id, now.key_id], log: self.agent.log() }
    }
}

impl Outcome {
    /// Fails on a failure before the first outage, or without one, on a code that is no outage, and on a missed deadline.
    fn check(&self, what: &str, outages: &[Outage]) {
        let what = format!("{what}; {}", self.route);
        for call in self.calls.failed() {
            assert!(
                outages.iter().any(|outage| call.ended >= outage.lost),
                "{what}: before the fault: {call:?}"
            );
            assert!(is_of_an_outage(call), "{what}: {call:?}\n{}", self.log);
        }
    }

    /// Fails when calls failed for too long after the outage.
    pub fn in_time(&self) {
        assert!(self.late <= LATE, "{}: failed {:?} after the outage\n{}", self.route, self.late, self.log);
    }

    /// Fails when more than one call in so many failed.
    pub fn few_failed(&self, one_in: usize) {
        let (failed, all) = (self.calls.failed().len(), self.calls.0.len());
        assert!(failed * one_in <= all, "{}: {failed} of {all} failed\n{}", self.route, self.log);
    }

    pub fn none_failed(&self) {
        self.calls.none_failed(self.route);
    }

    /// Fails when the agent announces another key.
    pub fn same_key(&self) {
        assert_eq!(self.key_ids[0], self.key_ids[1], "{}", self.route);
    }
}

/// How long after an outage a call began: after the end of the last one that had begun when the call ended.
fn after(call: &Call, outages: &[Outage]) -> Duration {
    let begun = call.ended - call.took;
    let begun_outages = outages.iter().filter(|outage| outage.lost <= call.ended);
    let back = begun_outages.map(|outage| outage.back).max();
    back.map_or(Duration::ZERO, |back| begun.saturating_duration_since(back))
}

/// Whether a call failed as calls may while a cluster is away.
fn is_of_an_outage(call: &Call) -> bool {
    AWAY.contains(&call.code) || is_late(call)
}

/// Whether this client gave up at its deadline. The agent answers DeadlineExceeded a little before, which on a busy
/// machine comes too late for the client.
fn is_late(call: &Call) -> bool {
    call.code == Code::Cancelled && call.text == "Timeout expired" && call.took >= DEADLINE
}
