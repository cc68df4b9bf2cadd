//! What the API server's own probes say of a plugin in trouble.

use crate::apiserver::ApiServer;
use crate::encryption::{kms, of};
use crate::etcd::Etcd;
use crate::support::agent::{Agent, QUICK};
use crate::support::bao::{Bao, KEY, policy};
use crate::support::eventually;

/// Waits until the API server's check of the provider fails with these words in it, and holds what must hold then.
async fn fails_saying(api: &ApiServer, words: &[&str]) {
    let text = eventually("the API server's words", async || {
        let answer = api.client.kms_check().await;
        let right = answer.status == 500 && words.iter().all(|word| answer.text.contains(word));
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        if right { Ok(answer.text) } else { Err(format!("{answer:?}")) }
    })
    .await;
    eprintln!("MEASURED the API server says: {}", text.trim());
    for (probe, status) in [("/readyz", 500), ("/livez", 200)] {
        assert_eq!(api.client.get(probe).await.unwrap().status, status, "{probe}");
    }
    assert_eq!(api.client.read("secrets", "one").await.unwrap(), "text", "what is cached stays readable");
}

async fn good_again(api: &ApiServer) {
    eventually("readiness", async || {
        let answer = api.client.get("/readyz").await?;
        if answer.status == 200 { Ok(()) } else { Err(answer.text) }
    })
    .await;
    api.client.write("secrets", "one", "text").await.unwrap();
}

#[tokio::test]
async fn a_failing_plugin_fails_readyz_and_not_livez_and_says_what_to_do() {
    let (etcd, mut bao) = tokio::join!(Etcd::start(), Bao::persistent());
    let agent = Agent::ready(&(bao.vault_config() + QUICK + "outage_grace = \"1s\"\n")).await;
    let api = ApiServer::ready(&etcd, &of(&[kms(&agent.socket())])).await;
    api.client.write("secrets", "one", "text").await.unwrap();

    bao.kill();
    fails_saying(&api, &["not healthy", "got unexpected healthz status", "cannot be reached", "remedy: "])
        .await;
    bao.restart().await;
    good_again(&api).await;

    bao.put_policy("kms", &policy("transit", "another-key")).await;
    fails_saying(&api, &["permission denied", "remedy: grant the capability", KEY]).await;
    bao.put_policy("kms", &policy("transit", KEY)).await;
    good_again(&api).await;
}
