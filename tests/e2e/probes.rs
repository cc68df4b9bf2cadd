//! The API server's own probes when the plugin fails.

use crate::apiserver::ApiServer;
use crate::encryption::{kms, of};
use crate::etcd::Etcd;
use crate::support::agent::{Agent, QUICK};
use crate::support::vault::{KEY, Vault, policy};

/// Waits until the API server's check of the provider fails with these words, and checks the other probes.
async fn fails_saying(api: &ApiServer, words: &[&str]) {
    let text = api.kms_check_fails(words).await;
    eprintln!("MEASURED the API server says: {text}");
    for (probe, status) in [("/readyz", 500), ("/livez", 200)] {
        assert_eq!(api.client.get(probe).await.unwrap().status, status, "{probe}");
    }
    assert_eq!(api.client.read("secrets", "one").await.unwrap(), "text", "what is cached stays readable");
}

async fn good_again(api: &ApiServer) {
    api.wait_ready().await;
    api.client.write("secrets", "one", "text").await.unwrap();
}

#[tokio::test]
async fn a_failing_plugin_fails_readyz_and_not_livez_and_says_what_to_do() {
    let (etcd, mut vault) = tokio::join!(Etcd::start(), Vault::persistent());
    let agent = Agent::ready(&(vault.vault_config() + QUICK + "outage_grace = \"1s\"\n")).await;
    let api = ApiServer::ready(&etcd, &of(&[kms(&agent.socket())])).await;
    api.client.write("secrets", "one", "text").await.unwrap();

    vault.kill();
    fails_saying(&api, &["not healthy", "got unexpected healthz status", "cannot be reached", "remedy: "])
        .await;
    vault.restart().await;
    good_again(&api).await;

    vault.put_policy("kms", &policy("transit", "another-key")).await;
    fails_saying(&api, &["permission denied", "remedy: grant the capability", KEY]).await;
    vault.put_policy("kms", &policy("transit", KEY)).await;
    good_again(&api).await;
}
