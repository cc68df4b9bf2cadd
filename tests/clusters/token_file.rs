//! A token of a file, at a standby that does not know of its renewal.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::Cluster;
use crate::network::Lost;
use crate::support::agent::{Agent, QUICK};
use crate::support::eventually;
use crate::support::vault::{KEY, write_secret};

/// From the cut on: the token ends, to the follower.
const ENDED: Duration = Duration::from_secs(9);
/// How long the agent is watched during the cut: longer than the confirmation of a refusal takes.
const CUT: Duration = Duration::from_secs(20);
/// The follower itself must find its leader first; the agent then looks every few seconds.
const HEALED: Duration = Duration::from_secs(30);

/// The token was renewed while the follower was cut off, so to that one it has ended. The agent that has only the follower's
/// address starts meanwhile. That is no refusal: the server cannot know better.
#[tokio::test(flavor = "multi_thread")]
async fn ended_to_a_standby_that_is_behind() {
    let cluster = Cluster::start().await;
    let follower = Cluster::others(cluster.leader().await)[0];
    let made = json!({ "policies": ["kms"], "no_default_policy": true, "period": "6s" });
    let made = cluster.members[cluster.leader().await].post("auth/token/create", made).await;
    let token = made["auth"]["client_token"].as_str().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.network.part(follower, Lost::All);
    let leader = cluster.leader().await;
    let cut = Instant::now();
    let renew = async || cluster.members[leader].post("auth/token/renew", json!({ "token": token })).await;
    while cut.elapsed() < ENDED {
        renew().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let file = cluster.members[leader].file("token");
    write_secret(&file, token);
    let config = format!(
        "[vault]\naddresses = [{:?}]\nca_file = {:?}\n[vault.transit]\nkey = {KEY:?}\n[vault.auth]\nmethod = \"token\"\ntoken_file = {file:?}\n",
        cluster.members[follower].address, cluster.pki.ca
    );
    let agent = Agent::start(&(config + QUICK));
    let started = Instant::now();
    let mut reasons = Vec::new();
    while started.elapsed() < CUT {
        renew().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let Ok(status) = agent.status() else { continue };
        let reason = status["reason"]["text"].to_string();
        if !reasons.contains(&reason) {
            println!("  {:.1?} after the start: {}", started.elapsed(), status["line"]);
            reasons.push(reason);
        }
        assert_ne!(status["phase"], "failed", "{status}\n{}", agent.log());
    }
    cluster.network.join(follower);
    let healed = Instant::now();
    eventually("the agent is ready", async || {
        renew().await;
        let status = agent.status()?;
        if status["phase"] == "ready" { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    let took = healed.elapsed();
    println!(
        "MEASURED a token that has ended to a standby that is behind: ready {took:.2?} after the end of the cut"
    );
    assert!(took < HEALED, "{took:?}");
    agent.kms().await.round_trip().await;
}
