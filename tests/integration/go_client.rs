//! The API server's own KMS v2 client (grpc-go, `kmsv2.NewGRPCService`) against the real binary.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::agent::{Agent, QUICK, QUIET};
use crate::support::tools;
use crate::support::vault::Vault;

fn run(agent: &Agent, more: &[&str]) -> Option<Value> {
    let mut command = Command::new(tools::go_client()?);
    command.arg("-socket").arg(agent.socket()).args(["-timeout", tools::GO_PATIENCE]).args(more);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}\n{}", agent.log());
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[tokio::test]
async fn round_trips_and_openshifts_preflight() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let Some(trips) = run(&agent, &["-mode", "roundtrip", "-count", "50"]) else { return };
    assert_eq!(
        (&trips["version"], &trips["healthz"], &trips["round_trips"]),
        (&"v2".into(), &"ok".into(), &50.into())
    );
    let preflight = run(&agent, &["-mode", "preflight"]).unwrap();
    assert_eq!(preflight["status_calls"], 1, "{preflight}");
}

#[tokio::test]
async fn rotations_on_a_live_connection_never_disagree() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    if tools::go_client().is_none() {
        return;
    }
    let rotating = async {
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            vault.rotate().await;
        }
    };
    let watching =
        tokio::task::spawn_blocking(move || run(&agent, &["-mode", "rotate", "-duration", "5s"]).unwrap());
    let ((), watched) = tokio::join!(rotating, watching);
    let watched = watched.unwrap();
    assert_eq!(watched["key_ids"].as_array().unwrap().len(), 5, "{watched}");
}
