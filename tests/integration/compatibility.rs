//! What each server can do: the tables of docs/compatibility.md, found out again on the server that the tests run on.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};

use crate::local_kek::written;
use crate::support::agent::{Agent, LOCAL_KEK, QUICK};
use crate::support::eventually;
use crate::support::kms::SEED;
use crate::support::product::Product;
use crate::support::vault::{KEY, Vault, policy};

/// The cells of one table, below the column of the chosen product: first cell of the row, and the cell.
fn documented(table: &str) -> Vec<(String, String)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/compatibility.md");
    let text = std::fs::read_to_string(file).unwrap();
    let section = text.split(&format!("\n## {table}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    let mut rows = section
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'))
        .map(|line| line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect::<Vec<_>>());
    let head = rows.next().unwrap();
    let name = Product::chosen().name();
    let column = head.iter().position(|cell| cell.starts_with(name)).unwrap();
    rows.skip(1).map(|row| (row[0].clone(), row[column].clone())).collect()
}

/// What an agent can do with a key of this type, in the words of the documentation.
async fn use_key(vault: &Vault, kind: &str) -> String {
    let path = format!("transit/keys/{kind}");
    let (status, answer) = vault.request(Method::POST, &path, json!({ "type": kind }), "").await;
    if status >= 300 {
        assert!(answer.to_string().contains("unknown key type"), "{kind}: {status} {answer}");
        return "does not exist".into();
    }
    vault.put_policy("kms", &policy("transit", kind)).await;
    let direct = vault.vault_config().replace(&format!("key = {KEY:?}"), &format!("key = {kind:?}")) + QUICK;
    let agent = Agent::start(&direct);
    let status = eventually("ready, or failed", async || {
        let status = agent.status()?;
        if status["phase"] == "ready" || status["phase"] == "failed" { Ok(status) } else { Err(agent.log()) }
    })
    .await;
    if status["reason"]["kind"] == "key_not_approved" {
        assert!(cfg!(feature = "fips") && kind.contains("chacha20"), "{kind}: {status}");
        // The table is about the ordinary build. fips.rs shows what this one does.
        return "direct, local KEK".into();
    }
    if status["phase"] == "failed" {
        assert_eq!(status["reason"]["kind"], "key_unusable", "{kind}: {status}");
        return "refused".into();
    }
    let mut kms = agent.kms().await;
    let before = kms.round_trip().await;
    vault.post(&format!("{path}/rotate"), json!({})).await;
    eventually("the rotation", async || {
        let key_id = kms.status().await.map_err(|status| status.to_string())?.key_id;
        if key_id == before.key_id { Err(key_id) } else { Ok(()) }
    })
    .await;
    let after = kms.round_trip().await;
    assert!(after.ciphertext.starts_with(b"vault:v2:"), "{kind}: {after:?}");
    assert_eq!(kms.decrypt(&before).await.unwrap(), SEED, "{kind}");

    let agent = Agent::ready(&(direct.clone() + LOCAL_KEK)).await;
    let mut kms = agent.kms().await;
    let local = written(&mut kms).await;
    assert_eq!(kms.decrypt(&before).await.unwrap(), SEED, "{kind}");
    // An agent without local KEKs reads it, too.
    let direct = Agent::ready(&direct).await;
    assert_eq!(direct.kms().await.decrypt(&local).await.unwrap(), SEED, "{kind}");
    "direct, local KEK".into()
}

#[tokio::test]
async fn each_key_type_works_as_documented() {
    let vault = Vault::start().await;
    let documented = documented("Key types");
    assert!(documented.len() > 5, "{documented:?}");
    for (kind, cell) in documented {
        let found = use_key(&vault, &kind).await;
        eprintln!("COMPATIBILITY {}: key type {kind}: {found}", Product::chosen().name());
        assert_eq!(cell, found, "docs/compatibility.md, key type {kind}");
    }
}

/// Whether the server accepts a request, in the words of the documentation.
async fn accepts(vault: &Vault, method: Method, path: &str, body: Value) -> &'static str {
    let (status, _) = vault.request(method, path, body, "").await;
    if status < 300 { "yes" } else { "no" }
}

/// Whether the server has a feature; `None` for one that only the documentation of its maker tells.
async fn has(vault: &Vault, feature: &str) -> Option<&'static str> {
    let key = format!("transit/keys/{KEY}");
    let post = async |path: &str, body: Value| accepts(vault, Method::POST, path, body).await;
    let found = match feature {
        "login by approle" => post("sys/auth/a", json!({ "type": "approle" })).await,
        "login by userpass" => post("sys/auth/u", json!({ "type": "userpass" })).await,
        "login by cert" => post("sys/auth/c", json!({ "type": "cert" })).await,
        "login by jwt" => post("sys/auth/j", json!({ "type": "jwt" })).await,
        "login by kubernetes" => post("sys/auth/k", json!({ "type": "kubernetes" })).await,
        "namespaces" => post("sys/namespaces/team", json!({})).await,
        "soft deletion of a key" => {
            vault.post(&format!("{key}/config"), json!({ "deletion_allowed": true })).await;
            let found = accepts(vault, Method::DELETE, &format!("{key}/soft-delete"), Value::Null).await;
            vault.request(Method::POST, &format!("{key}/soft-delete-restore"), json!({}), "").await;
            found
        }
        "trimming of old key versions" => {
            vault.rotate().await;
            let versions = json!({ "min_decryption_version": 2, "min_encryption_version": 2 });
            vault.post(&format!("{key}/config"), versions).await;
            post(&format!("{key}/trim"), json!({ "min_available_version": 2 })).await
        }
        "rotation by the server itself" => {
            post(&format!("{key}/config"), json!({ "auto_rotate_period": "24h" })).await
        }
        "associated data" => {
            let text = json!({ "plaintext": "c2VlZA==", "associated_data": "YWE=" });
            post(&format!("transit/encrypt/{KEY}"), text).await
        }
        "rate limit quotas" => {
            post("sys/quotas/rate-limit/all", json!({ "rate": 1000.0, "interval": "1s" })).await
        }
        "rate limits in the headers of answers" => {
            post("sys/quotas/config", json!({ "enable_rate_limit_response_headers": true })).await
        }
        "audit devices made by a request" => {
            let options = json!({ "file_path": vault.file("second-audit.log") });
            post("sys/audit/second", json!({ "type": "file", "options": options })).await
        }
        _ => return None,
    };
    Some(found)
}

#[tokio::test]
async fn each_feature_of_the_servers_is_there_as_documented() {
    let vault = Vault::start().await;
    let documented = documented("Features of the servers");
    assert!(documented.len() > 10, "{documented:?}");
    for (feature, cell) in documented {
        let found = has(&vault, &feature).await.unwrap_or_else(|| panic!("{feature:?} is not tested"));
        eprintln!("COMPATIBILITY {}: {feature}: {found}", Product::chosen().name());
        // A colon is followed by words for people.
        let cell = cell.split(':').next().unwrap();
        assert_eq!(cell, found, "docs/compatibility.md, {feature}");
    }
}
