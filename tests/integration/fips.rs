//! The FIPS build: `cargo test --features fips --test integration fips::`. Other builds have none of these tests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tonic::Code;

use crate::support::agent::{Agent, QUICK, command};
use crate::support::kms::SEED;
use crate::support::vault::{KEY, Vault, policy};

#[tokio::test]
async fn every_output_names_the_module() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUICK)).await;
    agent.kms().await.round_trip().await;
    let module = agent.status().unwrap()["fips"].as_str().unwrap().to_owned();
    assert!(module.starts_with("AWS-LC FIPS 3."), "{module}");
    let version = command().arg("--version").output().unwrap();
    assert!(
        String::from_utf8_lossy(&version.stdout).contains(&format!("(FIPS 140-3, {module})")),
        "{version:?}"
    );
    assert!(agent.log().contains(&format!("(FIPS 140-3, {module}) serves")), "{}", agent.log());
    let (code, shown) = agent.command("status");
    assert!(code == 0 && shown.contains("fips 140-3") && shown.contains(&module), "{shown}");
    assert!(agent.admin("GET", "/metrics").unwrap().1.contains("\nkms_plugin_fips_mode 1\n"));
}

#[tokio::test]
async fn a_key_type_that_is_not_approved_unwraps_and_does_not_wrap() {
    let vault = Vault::start().await;
    let kind = "chacha20-poly1305";
    vault.post(&format!("transit/keys/{kind}"), json!({ "type": kind })).await;
    vault.put_policy("kms", &policy("transit", kind)).await;
    // Another build wrote this.
    let plaintext = json!({ "plaintext": STANDARD.encode(SEED) });
    let written = vault.post(&format!("transit/encrypt/{kind}"), plaintext).await;
    let ciphertext = written["data"]["ciphertext"].as_str().unwrap();

    let agent = Agent::start(
        &(vault.vault_config().replace(&format!("key = {KEY:?}"), &format!("key = {kind:?}")) + QUICK),
    );
    let status = agent.wait_for_reason("failed", "key_not_approved").await;
    let mut kms = agent.kms().await;
    let refused = kms.encrypt(&SEED).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("FIPS 140-3 does not approve"), "{refused}");
    assert!(kms.status().await.is_err(), "the API server stops writing");
    let key_id = status["primary"]["key"]["key_id"].as_str().unwrap();
    assert_eq!(kms.decrypt_raw(ciphertext.as_bytes(), key_id).await.unwrap(), SEED);
}
