//! The journal: fields, priorities, one line a change.

use serde_json::Value;

use crate::node::{Node, QUICK};
use crate::support::kms::SEED;
use crate::support::vault::Vault;

fn entries(node: &Node) -> Vec<Value> {
    let text = node.ok("journalctl --no-pager -u kms-plugin -o json _COMM=kms-plugin");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn message(entry: &Value) -> &str {
    entry["MESSAGE"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn journal_lines_have_fields_and_none_is_per_request() {
    let vault = Vault::start().await;
    let node = Node::serving(&vault, QUICK).await;
    let mut kms = node.kms().await;
    let before = entries(&node).len();
    for _ in 0..50 {
        kms.status().await.unwrap();
        kms.round_trip().await;
    }
    assert!(entries(&node).len() <= before + 1, "a line a request: {}", node.journal());
    vault.freeze();
    node.wait_for_phase("degraded").await;
    let refused = kms.encrypt(&SEED).await.unwrap_err();
    assert!(!refused.message().is_empty());
    vault.thaw();
    node.wait_for_phase("ready").await;
    let told = entries(&node);
    for entry in &told {
        assert_eq!(entry["SYSLOG_IDENTIFIER"], "kms-plugin", "{entry}");
    }
    let find = |part: &str| {
        let found = told.iter().find(|entry| message(entry).contains(part));
        found.unwrap_or_else(|| panic!("no line with {part:?}: {}", node.journal()))
    };
    let degraded = find("degraded");
    assert_eq!(
        (degraded["PRIORITY"].as_str(), degraded["KMS_REASON"].as_str()),
        (Some("4"), Some("unreachable"))
    );
    let address =
        told.iter().find(|entry| entry["KMS_VAULT_ADDRESS"].is_string()).expect("an address is a field");
    assert_eq!(address["KMS_VAULT_ADDRESS"].as_str().unwrap().trim_end_matches('/'), vault.address);
    let failed =
        told.iter().find(|entry| entry["KMS_OPERATION"] == "encrypt").expect("the failed call is told");
    assert!(failed["KMS_UID"].is_string() && failed["KMS_KEY_ID"].is_string(), "{failed}");
    assert!(matches!(failed["PRIORITY"].as_str(), Some("3" | "4")), "{failed}");
    assert_eq!(find("ready")["PRIORITY"], "6");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_debug_each_request_has_the_audit_logs_request_id() {
    let vault = Vault::start().await;
    let node = Node::serving(&vault, &format!("{QUICK}[log]\nlevel = \"debug\"\n")).await;
    node.kms().await.round_trip().await;
    let told = entries(&node);
    let call =
        told.iter().find(|entry| entry["KMS_VAULT_OPERATION"] == "encrypt").expect("a line for encrypt");
    assert_eq!(call["PRIORITY"], "7");
    let id = call["KMS_VAULT_REQUEST_ID"].as_str().unwrap();
    let audit = std::fs::read_to_string(vault.file("audit.log")).unwrap();
    assert!(audit.contains(id), "request {id} is in the audit log");
    let text = told.iter().map(Value::to_string).collect::<String>();
    let secret = std::fs::read_to_string(vault.file("secret-id")).unwrap();
    assert!(!text.contains(secret.trim()), "a secret is in the journal");
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, SEED);
    assert!(!text.contains(std::str::from_utf8(&SEED).unwrap()), "a plaintext is in the journal");
    assert!(!text.contains(&encoded), "a plaintext is in the journal, as Vault gets it");
}
