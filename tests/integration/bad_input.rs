//! Bad requests on the socket get a clear error, and the agent continues.

use std::collections::HashMap;

use tonic::{Code, Status};

use crate::check::node;
use crate::support::agent::{Agent, QUIET};
use crate::support::checked::check;
use crate::support::kms::SEED;
use crate::support::product::Product;
use crate::support::vault::Vault;

fn told(refused: Status, code: Code, words: &str) {
    assert_eq!(refused.code(), code, "{refused}");
    assert!(refused.message().contains(words), "{words:?} in {refused}");
}

#[tokio::test]
async fn requests_that_break_the_kms_contract_are_refused() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let mut kms = agent.kms().await;
    let good = kms.round_trip().await;
    let key_id = good.key_id.clone();
    let before = vault.audited().len();

    told(kms.encrypt(b"").await.unwrap_err(), Code::InvalidArgument, "empty");
    told(kms.encrypt(&[0; 513]).await.unwrap_err(), Code::InvalidArgument, "513 bytes");
    told(kms.decrypt_raw(b"", &key_id).await.unwrap_err(), Code::InvalidArgument, "empty");
    told(kms.decrypt_raw(&[7; 1025], &key_id).await.unwrap_err(), Code::InvalidArgument, "1025 bytes");
    told(kms.decrypt_raw(&vec![7; 2 << 20], &key_id).await.unwrap_err(), Code::OutOfRange, "too large");
    told(kms.decrypt_raw(&[0xff; 100], &key_id).await.unwrap_err(), Code::InvalidArgument, "form");
    told(kms.decrypt_raw(&good.ciphertext, "").await.unwrap_err(), Code::InvalidArgument, "key_id is empty");
    told(
        kms.decrypt_raw(&good.ciphertext, &"k".repeat(1025)).await.unwrap_err(),
        Code::InvalidArgument,
        "1025 bytes",
    );
    told(
        kms.decrypt_raw(b"vault:v2:AAAA", &key_id).await.unwrap_err(),
        Code::InvalidArgument,
        "do not belong together",
    );
    told(
        kms.decrypt_raw(b"\x01\x02garbage", "1").await.unwrap_err(),
        Code::FailedPrecondition,
        "another plugin",
    );
    let annotated = async |name: &str, length: usize| {
        let annotations = HashMap::from([(name.to_owned(), vec![0; length])]);
        agent.kms().await.decrypt_annotated(&good.ciphertext, &key_id, annotations).await
    };
    told(annotated("kek.example.com", 33_000).await.unwrap_err(), Code::InvalidArgument, "annotations");
    told(annotated("not_a_name", 1).await.unwrap_err(), Code::InvalidArgument, "fully qualified");
    assert_eq!(annotated("kek.example.com", 1).await.unwrap(), SEED);
    let asked = vault.audited().len() - before;
    assert_eq!(asked, 1, "only the good request reached the key service");

    // Only the key service can see that a ciphertext is damaged in its middle.
    let mut damaged = good.ciphertext.clone();
    let middle = damaged.len() - 10;
    damaged[middle] = if damaged[middle] == b'A' { b'B' } else { b'A' };
    told(kms.decrypt_raw(&damaged, &key_id).await.unwrap_err(), Code::InvalidArgument, "remedy");
    // A key_id in our form that no key has: the key is read once, then the call is refused.
    let unknown = kms
        .decrypt_raw(&good.ciphertext, "v1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
        .await
        .unwrap_err();
    told(unknown, Code::FailedPrecondition, "decrypt_only");
    kms.round_trip().await;
}

#[tokio::test]
async fn a_wrong_mount_or_key_is_reported_with_its_setting() {
    let vault = Vault::start().await;
    let config = vault.vault_config();
    // Without the right to read, a wrong name of a key and a missing right look the same: the message names both.
    reported(
        config.replace("[vault.transit]", "[vault.transit]\nmount = \"transot\""),
        "failed",
        "wrong_setting",
        "its policies are for the Transit mount transit",
    )
    .await;
    reported(config.replace("\"kms-key\"", "\"kms-kex\""), "failed", "denied", "check that the key exists")
        .await;
    let wrong_auth = config.replace("[vault.auth]", "[vault.auth]\nmount = \"approll\"");
    reported(wrong_auth, "failed", "wrong_setting", "correct vault.auth.mount").await;
}

#[tokio::test]
async fn a_wrong_namespace_is_reported_with_its_setting() {
    let vault = Vault::start().await;
    let config = vault.vault_config().replace("[vault.transit]", "namespace = \"nowhere\"\n[vault.transit]");
    // Vault Community has no namespaces, and ignores a configured one: see `namespaces`.
    if Product::chosen() == Product::Vault {
        let agent = Agent::ready(&(config + QUIET)).await;
        agent.wait_for_log("ignores vault.namespace").await;
        return;
    }
    check(node(&config).path(), &[]).fails(&["login"], &["vault.auth_namespace"]);
    reported(config, "failed", "wrong_setting", "vault.auth_namespace").await;
}

/// An agent with this configuration reaches a phase, with a reason of this kind that contains `words`.
async fn reported(config: String, phase: &str, kind: &str, words: &str) {
    let agent = Agent::start(&(config + QUIET));
    let status = agent.wait_for_reason(phase, kind).await;
    let reason = status["reason"].to_string();
    assert!(reason.contains(words), "{words:?} in {reason}");
}
