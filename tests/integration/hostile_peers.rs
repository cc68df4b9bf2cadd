//! Peers on the KMS socket that begin calls and do not end them, and that open connections without a limit.

use std::fs;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kms_plugin::proto::{EncryptRequest, EncryptResponse};
use tokio::net::UnixStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::support::agent::{Agent, QUIET};
use crate::support::eventually;
use crate::support::kms::channel;
use crate::support::vault::Vault;

/// Time that the agent gives a caller to send a message to its end.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Begins an Encrypt, and sends no message: how the agent ends it.
async fn begin_only(channel: Channel) -> Status {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let nothing = futures_util::stream::pending::<EncryptRequest>();
    let codec = ProstCodec::<EncryptRequest, EncryptResponse>::default();
    let path = PathAndQuery::from_static("/v2.KeyManagementService/Encrypt");
    client.client_streaming(Request::new(nothing), path, codec).await.unwrap_err()
}

fn open_files(agent: &Agent) -> usize {
    fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count()
}

#[tokio::test]
async fn a_peer_that_may_not_call_is_refused_before_it_has_sent_its_message() {
    let vault = Vault::start().await;
    let nobody_else = [("KMS_PLUGIN_SERVER_ALLOWED_UIDS", "4294967294")];
    let agent = Agent::start_in(tempfile::tempdir().unwrap(), &(vault.vault_config() + QUIET), &nobody_else);
    agent.wait_for_phase("ready").await;
    let channel = channel(&agent.socket()).await;
    let before = Instant::now();
    let refused = join_all((0..100).map(|_| begin_only(channel.clone()))).await;
    assert!(before.elapsed() < BODY_TIMEOUT, "{:?}: the agent waited for the message", before.elapsed());
    for refused in refused {
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains("allowed_uids"), "{refused}");
    }
    let (_, metrics) = agent.admin("GET", "/metrics").unwrap();
    let counted = "method=\"Encrypt\",code=\"PERMISSION_DENIED\"} 100";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn calls_that_are_not_sent_to_their_end_are_ended_and_hinder_no_other() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let mut half_sent = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let channel = channel(&agent.socket()).await;
        for _ in 0..200 {
            half_sent.spawn(begin_only(channel.clone()));
        }
    }
    let first = eventually("the oldest is ended", async || {
        half_sent.try_join_next().ok_or_else(|| "none is".to_owned())
    })
    .await;
    assert_eq!(first.unwrap().code(), Code::ResourceExhausted);
    agent.kms().await.round_trip().await;
    let mut codes = std::collections::BTreeMap::<_, usize>::new();
    while let Some(ended) = half_sent.join_next().await {
        *codes.entry(format!("{:?}", ended.unwrap().code())).or_default() += 1;
    }
    let (late, ended) = (codes.get("DeadlineExceeded"), codes.get("ResourceExhausted"));
    assert_eq!(late.into_iter().chain(ended).sum::<usize>(), 599, "{codes:?}");
    assert!(late.is_some_and(|late| (500..=512).contains(late)), "{codes:?}");
    agent.kms().await.round_trip().await;
}

#[tokio::test]
async fn a_new_caller_is_served_beside_any_number_of_silent_connections() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let mut api_server = agent.kms().await;
    api_server.round_trip().await;
    let mut silent = Vec::new();
    for _ in 0..600 {
        silent.push(UnixStream::connect(agent.socket()).await.unwrap());
    }
    agent.kms().await.round_trip().await;
    // On the connection that it has had from the beginning.
    api_server.round_trip().await;
    eventually("the oldest connections are closed", async || {
        let open = open_files(&agent);
        if open < 200 { Ok(()) } else { Err(format!("{open} files are open")) }
    })
    .await;
    agent.wait_for_log("a silent one is closed").await;
}
