//! Those who use a cluster: agents that reach it on different routes, each under a steady load.

use std::time::{Duration, Instant};

use tonic::Code;

use crate::support::agent::{Agent, QUICK};
use crate::support::load::{Calls, Load};

/// What calls may fail with while a cluster has no leader.
const AWAY: [Code; 2] = [Code::Unavailable, Code::DeadlineExceeded];

/// One agent and its load.
pub struct User {
    /// How it reaches the cluster.
    pub route: String,
    pub agent: Agent,
    key_id: String,
    load: Load,
}

/// What a user's calls came to.
pub struct Outcome {
    pub calls: Calls,
    /// From the return of a leader to the start of the last call that failed. None failed after it: zero.
    pub late: Duration,
}

impl User {
    pub async fn start(route: &str, config: &str) -> Self {
        let agent = Agent::ready(&(config.to_owned() + QUICK)).await;
        let first = agent.kms().await.round_trip().await;
        let load = Load::start_with_deadline(&agent.socket(), &first);
        Self { route: route.to_owned(), agent, key_id: first.key_id, load }
    }

    /// Ends the load once calls succeed again. Fails on a wrong byte, on a code that is no outage, on a failure before
    /// the fault, on another key_id, and when the agent does not become ready.
    pub async fn stop(self, what: &str, lost: Instant, back: Instant) -> Outcome {
        self.agent.wait_for_phase("ready").await;
        let what = format!("{what}; {}", self.route);
        let calls = self.load.stop().await;
        let failed = calls.failed();
        for call in &failed {
            assert!(call.ended >= lost, "{what}: failed before the fault: {call:?}");
            assert!(AWAY.contains(&call.code), "{what}: {call:?}\n{}", self.agent.log());
        }
        let begun = failed.iter().map(|call| call.ended - call.took).max();
        let late = begun.map_or(Duration::ZERO, |begun| begun.saturating_duration_since(back));
        let slowest = calls.0.iter().map(|call| call.took).max().unwrap_or_default();
        println!(
            "MEASURED {what}: {} calls, {} failed; a leader answered after {:.2?}, last failing call begun {late:.2?} \
             after that; slowest call {slowest:.2?}",
            calls.0.len(),
            failed.len(),
            back - lost,
        );
        let now = self.agent.kms().await.status().await.unwrap();
        assert_eq!((now.key_id.as_str(), now.healthz.as_str()), (self.key_id.as_str(), "ok"), "{what}");
        Outcome { calls, late }
    }
}
