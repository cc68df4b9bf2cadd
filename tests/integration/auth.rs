//! Login by every method, and what happens when credentials are wrong or change.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::check::node;
use crate::support::agent::{Agent, QUICK, QUIET};
use crate::support::checked::check;
use crate::support::fake;
use crate::support::jwt::Signer;
use crate::support::kms::SEED;
use crate::support::pki::Pki;
use crate::support::vault::{KEY, Vault, write_secret};

/// `[vault]` with another login.
fn config(vault: &Vault, auth: &str) -> String {
    format!(
        "[vault]\naddresses = [{:?}]\n[vault.transit]\nkey = {KEY:?}\n[vault.auth]\n{auth}",
        vault.address
    )
}

#[tokio::test]
async fn token_login() {
    let vault = Vault::start().await;
    let made = vault
        .post("auth/token/create", json!({ "policies": ["kms"], "no_default_policy": true, "ttl": "1h" }))
        .await;
    // A trailing newline is what an editor leaves.
    write_secret(&vault.file("token"), &format!("{}\n", made["auth"]["client_token"].as_str().unwrap()));
    let auth = format!("method = \"token\"\ntoken_file = {:?}\n", vault.file("token"));
    let agent = Agent::ready(&(config(&vault, &auth) + QUIET)).await;
    agent.kms().await.round_trip().await;
    let status = agent.status().unwrap();
    assert_eq!(status["primary"]["token"]["method"], "token");
    assert!(status["primary"]["token"]["expires"].is_i64(), "{status}");
}

#[tokio::test]
async fn approle_login_without_a_secret_id() {
    let vault = Vault::start().await;
    let role = json!({ "bind_secret_id": false, "token_bound_cidrs": "127.0.0.1/32" });
    vault.post("auth/approle/role/kms", role).await;
    let auth = format!("method = \"approle\"\nrole_id_file = {:?}\n", vault.file("role-id"));
    let agent = Agent::ready(&(config(&vault, &auth) + QUIET)).await;
    agent.kms().await.round_trip().await;
    let checked = check(node(&config(&vault, &auth)).path(), &[]);
    checked.says("login", "ok", &["succeeded"]);
    checked.says("credentials", "warn", &["the role-id", "without a secret-id, whoever knows"]);
    // A role that wants a secret-id: the remedy says what is missing, and nothing is sent twice.
    vault.post("auth/approle/role/kms", json!({ "bind_secret_id": true })).await;
    let before = vault.count("auth/approle/login");
    let agent = Agent::start(&(config(&vault, &auth) + QUICK));
    let status = agent.wait_for_reason("failed", "credentials_refused").await;
    assert!(status["reason"]["remedy"].as_str().unwrap().contains("secret_id_file"), "{status}");
    assert_eq!(vault.count("auth/approle/login"), before + 1);
}

#[tokio::test]
async fn userpass_login() {
    let vault = Vault::start().await;
    vault.post("sys/auth/people", json!({ "type": "userpass" })).await;
    vault.post("auth/people/users/node", json!({ "password": "pass word", "token_policies": "kms" })).await;
    write_secret(&vault.file("password"), "pass word\n");
    let auth = format!(
        "method = \"userpass\"\nmount = \"people\"\nusername = \"node\"\npassword_file = {:?}\n",
        vault.file("password")
    );
    let agent = Agent::ready(&(config(&vault, &auth) + QUIET)).await;
    agent.kms().await.round_trip().await;
}

#[tokio::test]
async fn a_secret_from_a_systemd_credential() {
    let vault = Vault::start().await;
    let role_id = fs::read_to_string(vault.file("role-id")).unwrap();
    let credentials = tempfile::tempdir().unwrap();
    fs::copy(vault.file("secret-id"), credentials.path().join("vault-secret-id")).unwrap();
    let auth = format!("method = \"approle\"\nrole_id = {role_id:?}\ncredential = \"vault-secret-id\"\n");
    let directory = credentials.path().display().to_string();
    let passed = [("CREDENTIALS_DIRECTORY", directory.as_str())];
    let agent = Agent::start_in(tempfile::tempdir().unwrap(), &(config(&vault, &auth) + QUIET), &passed);
    agent.wait_for_phase("ready").await;
    agent.kms().await.round_trip().await;
    // Without systemd, the error names what is missing.
    let agent = Agent::start(&(config(&vault, &auth) + QUIET));
    let status = agent.wait_for_reason("starting", "credentials_unreadable").await;
    assert!(
        status["reason"]["remedy"].as_str().unwrap().contains("LoadCredential=vault-secret-id"),
        "{status}"
    );
}

#[tokio::test]
async fn cert_login() {
    let pki = Pki::new(&["127.0.0.1"]);
    let vault = Vault::with_tls(&pki).await;
    vault.post("sys/auth/cert", json!({ "type": "cert" })).await;
    let ca = fs::read_to_string(&pki.ca).unwrap();
    vault.post("auth/cert/certs/nodes", json!({ "certificate": ca, "token_policies": "kms" })).await;
    let auth = config(&vault, "method = \"cert\"\nrole = \"nodes\"\n").replace(
        "[vault.transit]",
        &format!(
            "ca_file = {:?}\nclient_cert_file = {:?}\nclient_key_file = {:?}\n[vault.transit]",
            pki.ca, pki.client_cert, pki.client_key
        ),
    );
    let agent = Agent::ready(&(auth + QUIET)).await;
    agent.kms().await.round_trip().await;
}

#[tokio::test]
async fn jwt_login() {
    let vault = Vault::start().await;
    let signer = Signer::new();
    vault.post("sys/auth/jwt", json!({ "type": "jwt" })).await;
    vault.post("auth/jwt/config", json!({ "jwt_validation_pubkeys": [signer.public_pem()] })).await;
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "token_policies": "kms",
    });
    vault.post("auth/jwt/role/nodes", role).await;
    // A service account's token is world-readable where the kubelet projects it.
    fs::write(vault.file("jwt"), signer.sign("node-1", "vault")).unwrap();
    fs::set_permissions(vault.file("jwt"), fs::Permissions::from_mode(0o644)).unwrap();
    let auth = format!("method = \"jwt\"\nrole = \"nodes\"\njwt_file = {:?}\n", vault.file("jwt"));
    let agent = Agent::ready(&(config(&vault, &auth) + QUIET)).await;
    agent.kms().await.round_trip().await;
}

#[tokio::test]
async fn kubernetes_login() {
    let vault = Vault::start().await;
    let signer = Signer::new();
    let pki = Pki::new(&["127.0.0.1"]);
    // A fake answers as the API server's TokenReview: there is no API server here.
    let api = fake::token_review("kube-system", "kms-plugin").await;
    vault.post("sys/auth/kubernetes", json!({ "type": "kubernetes" })).await;
    vault.post(
        "auth/kubernetes/config",
        json!({ "kubernetes_host": api, "token_reviewer_jwt": signer.sign("reviewer", "k8s"), "disable_local_ca_jwt": true, "kubernetes_ca_cert": fs::read_to_string(&pki.ca).unwrap() }),
    )
    .await;
    let role = json!({
        "bound_service_account_names": "kms-plugin", "bound_service_account_namespaces": "kube-system",
        "token_policies": "kms", "audience": "vault",
    });
    vault.post("auth/kubernetes/role/nodes", role).await;
    fs::write(vault.file("jwt"), signer.sign("system:serviceaccount:kube-system:kms-plugin", "vault"))
        .unwrap();
    let auth = format!("method = \"kubernetes\"\nrole = \"nodes\"\njwt_file = {:?}\n", vault.file("jwt"));
    let agent = Agent::ready(&(config(&vault, &auth) + QUIET)).await;
    agent.kms().await.round_trip().await;
}

#[tokio::test]
async fn a_wrapped_secret_id_is_unwrapped_once_and_kept_in_memory() {
    let vault = Vault::start().await;
    write_secret(&vault.file("secret-id"), &vault.wrapped("auth/approle/role/kms/secret-id").await);
    let wrapped = vault.vault_config() + "secret_id_wrapped = true\n";
    let agent = Agent::ready(&(wrapped.clone() + QUICK)).await;
    agent.kms().await.round_trip().await;
    // The token is revoked: the next login uses the secret-id that was unwrapped before.
    vault.revoke_approle_tokens().await;
    agent.kms().await.round_trip().await;
    assert_eq!(vault.count("sys/wrapping/unwrap"), 1);
    // The wrapping token is used up: a second agent is refused, and says what that may mean.
    let late = Agent::start(&(wrapped.clone() + QUICK));
    let status = late.wait_for_reason("failed", "credentials_refused").await;
    assert!(status["reason"]["remedy"].as_str().unwrap().contains("somebody else"), "{status}");
    // A wrapping token of something else is not unwrapped.
    vault.post("sys/mounts/kv", json!({ "type": "kv" })).await;
    write_secret(&vault.file("secret-id"), &vault.wrapped("auth/token/create").await);
    let unwrapped = vault.count("sys/wrapping/unwrap");
    let misled = Agent::start(&(wrapped + QUICK));
    let status = misled.wait_for_reason("failed", "credentials_refused").await;
    assert!(status["reason"]["text"].as_str().unwrap().contains("was not made for a secret-id"), "{status}");
    assert_eq!(vault.count("sys/wrapping/unwrap"), unwrapped);
}

#[tokio::test]
async fn a_revoked_token_fails_no_call() {
    let vault = Vault::start().await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let mut kms = agent.kms().await;
    kms.round_trip().await;
    for _ in 0..2 {
        vault.revoke_approle_tokens().await;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let mut kms = kms.clone();
            calls.spawn(async move { kms.round_trip().await });
        }
        assert_eq!(calls.join_all().await.len(), 8);
    }
    assert_eq!(vault.count("auth/approle/login"), 3, "eight callers share one login");
}

#[tokio::test]
async fn a_revoked_static_token_is_reported_and_a_new_one_is_used() {
    let vault = Vault::start().await;
    let make = async || -> String {
        let made = json!({ "policies": ["kms"], "no_default_policy": true, "ttl": "1h" });
        vault.post("auth/token/create", made).await["auth"]["client_token"].as_str().unwrap().to_owned()
    };
    let first = make().await;
    write_secret(&vault.file("token"), &first);
    let auth = format!("method = \"token\"\ntoken_file = {:?}\n", vault.file("token"));
    let agent = Agent::ready(&(config(&vault, &auth) + QUICK)).await;
    vault.post("auth/token/revoke", json!({ "token": first })).await;
    let status = agent.wait_for_reason("failed", "credentials_refused").await;
    assert!(
        status["reason"]["remedy"].as_str().unwrap().contains("write it into the token file"),
        "{status}"
    );
    let mut kms = agent.kms().await;
    let before = vault.audited().len();
    for _ in 0..20 {
        assert_eq!(kms.encrypt(&SEED).await.unwrap_err().code(), tonic::Code::PermissionDenied);
    }
    let asked = vault.audited().len() - before;
    assert!(asked <= 4, "a token known to be revoked is not sent again: {asked} requests");
    assert!(!agent.log().contains(&first));
    write_secret(&vault.file("token"), &make().await);
    agent.wait_for_phase("ready").await;
    kms.round_trip().await;
}

#[tokio::test]
async fn short_lived_tokens_are_replaced_in_time() {
    let vault = Vault::start().await;
    // Not renewable in effect: the maximum lifetime is the lifetime.
    vault.approle("kms", json!({ "token_ttl": "3s", "token_max_ttl": "3s" })).await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let mut kms = agent.kms().await;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(12);
    while std::time::Instant::now() < until {
        kms.round_trip().await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let logins = vault.count("auth/approle/login");
    assert!((4..=16).contains(&logins), "{logins} logins in twelve seconds");
}

#[tokio::test]
async fn tokens_with_few_uses_are_replaced_before_they_are_used_up() {
    let vault = Vault::start().await;
    vault.approle("kms", json!({ "token_num_uses": 20 })).await;
    let agent = Agent::ready(&(vault.vault_config() + QUIET)).await;
    let mut kms = agent.kms().await;
    for _ in 0..60 {
        kms.round_trip().await;
    }
    assert!(vault.count("auth/approle/login") >= 6);
}

#[tokio::test]
async fn wrong_credentials_are_sent_once_and_a_corrected_file_is_used() {
    let vault = Vault::start().await;
    let right = fs::read_to_string(vault.file("secret-id")).unwrap();
    write_secret(&vault.file("secret-id"), "00000000-0000-0000-0000-000000000000");
    let agent = Agent::start(&(vault.vault_config() + QUICK));
    let status = agent.wait_for_reason("failed", "credentials_refused").await;
    assert!(status["reason"]["remedy"].as_str().unwrap().contains("locks"), "{status}");
    let mut kms = agent.kms().await;
    for _ in 0..20 {
        assert!(kms.encrypt(&SEED).await.is_err());
    }
    let logins = vault.count("auth/approle/login");
    assert_eq!(logins, 2, "one wrong one, and one without a secret, which no server counts");
    assert!(!agent.log().contains("00000000-0000"), "no secret in the log");
    write_secret(&vault.file("secret-id"), &right);
    agent.wait_for_phase("ready").await;
    kms.round_trip().await;
}

#[tokio::test]
async fn unusable_secret_files_are_reported_without_their_content() {
    let vault = Vault::start().await;
    let secret = fs::read_to_string(vault.file("secret-id")).unwrap();
    let path = vault.file("secret-id");
    let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    let told = async |words: &str| {
        let agent = Agent::start(&(vault.vault_config() + QUICK));
        let status = agent.wait_for_reason("starting", "credentials_unreadable").await;
        let reason = status["reason"].to_string();
        assert!(reason.contains(words) && reason.contains("secret-id"), "{words}: {reason}");
        assert!(!agent.log().contains(&secret));
    };
    mode(0o644);
    told("0644").await;
    mode(0o600);
    fs::write(&path, "\n").unwrap();
    told("empty").await;
    fs::write(&path, "one\ntwo\n").unwrap();
    told("more than one line").await;
    fs::write(&path, [0xff, 0xfe]).unwrap();
    told("not UTF-8").await;
    fs::write(&path, "x".repeat(70_000)).unwrap();
    told("65536 bytes").await;
    fs::remove_file(&path).unwrap();
    told("No such file").await;
    fs::create_dir(&path).unwrap();
    told("is a directory").await;
    fs::remove_dir(&path).unwrap();
    // A trailing newline does no harm. The file of the role-id may be readable by all.
    write_secret(&path, &format!("{secret}\n"));
    fs::set_permissions(vault.file("role-id"), fs::Permissions::from_mode(0o644)).unwrap();
    Agent::ready(&(vault.vault_config() + QUICK)).await;
    fs::remove_file(vault.file("role-id")).unwrap();
    let agent = Agent::start(&(vault.vault_config() + QUICK));
    let status = agent.wait_for_reason("starting", "credentials_unreadable").await;
    assert!(status["reason"].to_string().contains("role-id"), "{status}");
}
