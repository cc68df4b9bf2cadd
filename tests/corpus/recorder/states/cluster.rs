//! A cluster of three: a standby, an election, a node that was removed, an active node that hangs.

use std::time::Duration;

use serde_json::json;

use super::{ids, set_up};
use crate::answer::Recorder;
use crate::call::{self, Call};
use crate::server::{Options, Server};
use crate::support::eventually;
use crate::support::product::Product;

pub async fn record(recorder: &Recorder) {
    stepped_down(recorder).await;
    let options = Options { node: Some("one"), ..Options::default() };
    let mut active = Server::start(recorder.product, &options).await;
    active.initialise().await;
    active.unseal().await;
    self::active(&active).await;
    set_up(&active).await;
    let token = active.token(json!({ "policies": ["kms", "default"], "ttl": "1h" })).await;
    let mut standby = Server::join(&active, "two").await;
    let third = Server::join(&active, "three").await;
    eventually("three voters", async || {
        let peers = active.get("sys/storage/raft/configuration").await;
        let peers = peers["data"]["config"]["servers"].as_array().unwrap().clone();
        let voters = peers.iter().filter(|peer| peer["voter"] == true).count();
        if voters == 3 { Ok(()) } else { Err(format!("{voters} voters")) }
    })
    .await;
    for node in [&standby, &third] {
        eventually("the standby forwards", async || {
            let answer = node.send(&call::encrypt(&token)).await;
            if answer.status == 200 { Ok(()) } else { Err(answer.body) }
        })
        .await;
    }

    let state = recorder.state("standby", "a standby; it serves, or forwards to the active node");
    let (role_id, secret_id) = ids(&active, "kms").await;
    let calls = vec![
        call::encrypt(&token),
        call::read_key(&token),
        call::lookup(&token),
        call::approle(&role_id, &secret_id),
        call::health(),
        call::plain_health(),
    ];
    state.ask_all(&standby, calls).await;
    let state =
        recorder.state("standby-redirects", "a standby that does not forward sends to the active node");
    for call in [call::encrypt(&token), call::approle(&role_id, &secret_id)] {
        state.ask(&standby, call.header("x-vault-no-request-forwarding", "true")).await;
    }

    // Removed, the node still runs.
    active.put("sys/storage/raft/remove-peer", json!({ "server_id": "three" })).await;
    if recorder.product == Product::Vault {
        eventually("removed", async || {
            let health = third.send(&call::plain_health()).await;
            if health.status == 530 { Ok(()) } else { Err(health.body) }
        })
        .await;
    } else {
        // OpenBao's node does not say that it was removed.
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let state = recorder.state("removed", "the node was removed from the cluster and still runs");
    state.ask_all(&third, call::all(&token)).await;

    // One of two is lost: the other has no quorum, and learns only later that there is no active node.
    active.kill();
    let state =
        recorder.state("active-lost", "the active node has died, and the standby still knows its address");
    state.ask_all(&standby, call::all(&token)).await;
    // 474 on HashiCorp Vault. OpenBao says 429 as before.
    if recorder.product == Product::Vault {
        eventually("474", async || {
            let health = standby.send(&call::plain_health()).await;
            if health.status == 474 { Ok(()) } else { Err(health.body) }
        })
        .await;
        let state = recorder.state("active-lost-later", "the active node died some seconds ago");
        state.ask_all(&standby, vec![call::encrypt(&token), call::health(), call::plain_health()]).await;
    }

    standby.restart().await;
    let unseal = Call::post("sys/unseal", json!({ "key": standby.unseal_key }));
    eventually("unsealed", async || {
        let answer = standby.send(&unseal).await;
        if answer.json()["sealed"] == false { Ok(()) } else { Err(answer.body) }
    })
    .await;
    let state =
        recorder.state("no-leader", "a standby that knows no active node: an election without a quorum");
    let login = call::approle(&role_id, &secret_id);
    let calls = vec![call::encrypt(&token), login, call::health(), call::plain_health()];
    state.ask_all(&standby, calls).await;
}

/// An active node that stepped down: for ten seconds nobody is active, and no node knows an address to send to.
async fn stepped_down(recorder: &Recorder) {
    let options = Options { node: Some("one"), ..Options::default() };
    let mut server = Server::start(recorder.product, &options).await;
    server.initialise().await;
    server.unseal().await;
    active(&server).await;
    set_up(&server).await;
    let token = server.token(json!({ "policies": ["kms", "default"], "ttl": "1h" })).await;
    let state =
        recorder.state("stepped-down", "the active node stepped down, and no other one is active yet");
    // A busy machine may be too slow for the ten seconds: then it steps down once more.
    for _ in 0..10 {
        active(&server).await;
        server.put("sys/step-down", json!({})).await;
        eventually("stepped down", async || {
            let health = server.send(&call::plain_health()).await;
            if health.status == 200 { Err(health.body) } else { Ok(()) }
        })
        .await;
        let mut answers = Vec::new();
        for call in call::all(&token) {
            answers.push((server.send(&call).await, call));
        }
        if server.send(&call::plain_health()).await.status != 200 {
            answers.into_iter().for_each(|(answer, call)| state.keep(&call, answer));
            return;
        }
    }
    panic!("this machine is too slow to record a node that stepped down");
}

async fn active(server: &Server) {
    eventually("active", async || {
        let health = server.send(&call::plain_health()).await;
        if health.status == 200 { Ok(()) } else { Err(health.body) }
    })
    .await;
}
