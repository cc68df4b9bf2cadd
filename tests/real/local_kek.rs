//! Local KEKs against a real server: what works while it is away, and what does not once it refuses.

use std::collections::HashMap;

use kms_plugin::proto::EncryptResponse;
use tonic::{Code, Status};

use crate::support::agent::{Agent, QUICK};
use crate::support::bao::{Bao, KEY, policy};
use crate::support::eventually;
use crate::support::kms::{Kms, SEED};

const ON: &str = "[local_kek]\nenabled = true\n";
const ANNOTATION: &str = "local-kek.kms-plugin.internal";

async fn read(kms: &mut Kms, wrapped: &EncryptResponse) -> Result<Vec<u8>, Status> {
    kms.decrypt_annotated(&wrapped.ciphertext, &wrapped.key_id, wrapped.annotations.clone()).await
}

async fn written(kms: &mut Kms) -> EncryptResponse {
    let wrapped = kms.encrypt(&SEED).await.unwrap();
    assert!(wrapped.ciphertext.starts_with(b"local-kek:v1:"), "{wrapped:?}");
    assert!(wrapped.annotations[ANNOTATION].starts_with(b"v1:vault:v"), "{wrapped:?}");
    assert_eq!(read(kms, &wrapped).await.unwrap(), SEED);
    wrapped
}

#[tokio::test]
async fn seeds_are_wrapped_and_unwrapped_while_the_server_is_away() {
    let mut bao = Bao::persistent().await;
    let agent = Agent::ready(&(bao.vault_config() + QUICK + ON)).await;
    let mut kms = agent.kms().await;
    let before = written(&mut kms).await;
    let asked = bao.count("transit/decrypt");
    for _ in 0..50 {
        written(&mut kms).await;
    }
    bao.kill();
    agent.wait_for_reason("degraded", "unreachable").await;
    assert_eq!(read(&mut kms, &before).await.unwrap(), SEED);
    let during = written(&mut kms).await;
    assert_eq!(during.key_id, before.key_id);
    assert_eq!(kms.status().await.unwrap().healthz, "ok");
    bao.restart().await;
    agent.wait_for_phase("ready").await;
    assert_eq!(read(&mut kms, &during).await.unwrap(), SEED);
    assert!(bao.count("transit/decrypt") - asked < 50, "the calls did not reach the server");
}
