//! TLS to a real server: CA files, server names, and the wrong protocol on a port.

use std::fs;

use crate::support::agent::{Agent, QUICK, QUIET};
use crate::support::pki::Pki;
use crate::support::vault::Vault;

fn config(vault: &Vault, tls: &str) -> String {
    vault.vault_config().replace("[vault.transit]", &format!("{tls}\n[vault.transit]")) + QUICK
}

async fn unreachable(config: &str, words: &str) {
    let agent = Agent::start(config);
    let status = agent.wait_for_reason("starting", "unreachable").await;
    let reason = status["reason"].to_string();
    assert!(reason.contains(words), "{words:?} in {reason}");
}

#[tokio::test]
async fn a_ca_file_and_a_server_name_other_than_the_address() {
    let pki = Pki::new(&["vault.internal"]);
    let vault = Vault::with_tls(&pki).await;
    let ca = format!("ca_file = {:?}", pki.ca);
    let agent = Agent::ready(&config(&vault, &format!("{ca}\nserver_name = \"vault.internal\""))).await;
    agent.kms().await.round_trip().await;
    unreachable(&config(&vault, &ca), "vault.server_name").await;
    unreachable(&config(&vault, &format!("{ca}\nserver_name = \"other.internal\"")), "another name").await;
    let other = Pki::new(&["vault.internal"]);
    unreachable(
        &config(&vault, &format!("ca_file = {:?}\nserver_name = \"vault.internal\"", other.ca)),
        "vault.ca_file",
    )
    .await;
    unreachable(&config(&vault, "server_name = \"vault.internal\""), "unknown authority").await;
    let loud = Agent::ready(&config(&vault, "insecure_skip_verify = true")).await;
    assert!(loud.log().contains("INSECURE"), "{}", loud.log());
    loud.kms().await.round_trip().await;
}

#[tokio::test]
async fn http_and_https_on_the_wrong_port_are_reported() {
    let pki = Pki::new(&["127.0.0.1"]);
    let vault = Vault::with_tls(&pki).await;
    let plain = config(&vault, "").replace("https://", "http://");
    unreachable(&plain, "https://").await;
    let without_tls = Vault::start().await;
    let tls = without_tls.vault_config().replace("http://", "https://") + QUIET;
    unreachable(&tls, "does not speak TLS").await;
}

#[tokio::test]
async fn unusable_tls_files_end_the_start_with_their_name() {
    let vault = Vault::start().await;
    let directory = tempfile::tempdir().unwrap();
    let garbage = directory.path().join("garbage.pem");
    fs::write(&garbage, "not a certificate").unwrap();
    let pki = Pki::new(&["127.0.0.1"]);
    for (tls, words) in [
        ("ca_file = \"/nonexistent/ca.pem\"".to_owned(), "/nonexistent/ca.pem cannot be read"),
        (format!("ca_file = {garbage:?}"), "holds no PEM certificate"),
        (format!("client_cert_file = {:?}\nclient_key_file = {garbage:?}", pki.client_cert), "private key"),
        (
            format!("client_cert_file = {:?}\nclient_key_file = {:?}", pki.client_cert, pki.server_key),
            "do not fit together",
        ),
    ] {
        let mut agent = Agent::start(&config(&vault, &tls));
        assert_eq!(agent.ended().await.code(), Some(78), "{}", agent.log());
        assert!(agent.log().contains(words), "{words:?} in {}", agent.log());
    }
}

#[tokio::test]
async fn a_changed_ca_file_is_used_without_a_restart() {
    let (old, pki) = (Pki::new(&["127.0.0.1"]), Pki::new(&["127.0.0.1"]));
    let vault = Vault::with_tls(&pki).await;
    let file = vault.file("ca.pem");
    std::fs::copy(&old.ca, &file).unwrap();
    let config = vault.vault_config().replace("[vault]\n", &format!("[vault]\nca_file = {file:?}\n"));
    let agent = Agent::start(&(config + QUICK));
    agent.wait_for_reason("starting", "unreachable").await;
    std::fs::copy(&pki.ca, &file).unwrap();
    agent.wait_for_phase("ready").await;
    agent.kms().await.round_trip().await;
}
