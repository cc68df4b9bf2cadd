//! `check` of the connection to the key service: names, TCP, TLS, the state of the server.

use std::net::TcpStream;

use serde_json::json;

use crate::check::node;
use crate::support::checked::{SILENT, check};
use crate::support::fake;
use crate::support::pki::Pki;
use crate::support::proxy::{Mode, Proxy};
use crate::support::vault::{KEY, Vault};

const DAY: i64 = 86_400;

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_name_a_closed_port_and_a_firewall_are_found() {
    let vault = Vault::start().await;
    let with = |address: &str| node(&vault.vault_config().replace(&vault.address, address));
    let found = check(with("https://vault.invalid:8200").path(), &[]);
    found.fails(&["dns"], &["vault.invalid", "getent ahosts vault.invalid"]);
    assert_eq!(found.outcomes("login"), ["skipped"]);
    check(with("http://127.0.0.1:9").path(), &[]).fails(&["tcp"], &["refused", "start Vault"]);
    // A listener with a full queue drops new connections, as a firewall does.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let _queue: Vec<TcpStream> = (0..8)
        .map_while(|_| TcpStream::connect_timeout(&address, std::time::Duration::from_millis(300)).ok())
        .collect();
    check(with(&format!("http://{address}")).path(), &SILENT)
        .fails(&["tcp"], &["did not answer", "firewall"]);
    // A proxy that accepts connections and never answers.
    let proxy = Proxy::before(&vault.address).await;
    proxy.set(Mode::BlackHole);
    check(with(&proxy.address).path(), &SILENT).fails(&["server"], &["did not answer in time", "firewall"]);
    proxy.set(Mode::Pass);
    check(with(&proxy.address).path(), &[]).is_green();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_address_among_good_ones_is_found() {
    let vault = Vault::start().await;
    let both = |other: &str| {
        let addresses = format!("{:?}, {other:?}", vault.address);
        node(&vault.vault_config().replace(&format!("{:?}", vault.address), &addresses))
    };
    let found = check(both("http://127.0.0.1:9").path(), &[]);
    found.fails(&["tcp"], &["http://127.0.0.1:9"]);
    assert_eq!(found.outcomes("round-trip"), ["ok"]);
    let foreign = Vault::start().await;
    check(both(&foreign.address).path(), &[]).fails(&["cluster"], &["another cluster", "keep only"]);
    check(node(&vault.vault_config()).path(), &[]).is_green();
}

/// `[vault]` for a server with TLS on 127.0.0.1.
fn tls(vault: &Vault, extra: &str) -> String {
    vault.vault_config().replace("[vault]\n", &format!("[vault]\n{extra}\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_cannot_be_verified_are_found() {
    let pki = Pki::new(&["127.0.0.1"]);
    let vault = Vault::with_tls(&pki).await;
    let ca = format!("ca_file = {:?}", pki.ca);
    check(node(&tls(&vault, &ca)).path(), &[]).is_green();
    let other = Pki::new(&["127.0.0.1"]);
    let wrong = format!("ca_file = {:?}", other.ca);
    check(node(&tls(&vault, &wrong)).path(), &[]).fails(&["tls"], &["test authority", "vault.ca_file"]);
    let named = format!("{ca}\nserver_name = \"vault.example\"");
    check(node(&tls(&vault, &named)).path(), &[])
        .fails(&["tls"], &["vault.example", "for 127.0.0.1", "server_name"]);
    let missing = "ca_file = \"/nonexistent/ca.pem\"";
    check(node(&tls(&vault, missing)).path(), &[]).fails(&["credentials", "tls"], &["/nonexistent/ca.pem"]);
    let unsafe_ = "insecure_skip_verify = true";
    check(node(&tls(&vault, unsafe_)).path(), &[])
        .warns(&["configuration", "socket"], &["insecure_skip_verify"]);
    // HTTPS to a server without TLS, and HTTP to one with it.
    let plain = Vault::start().await;
    let config = plain.vault_config().replace("http://", "https://");
    check(node(&config).path(), &[]).fails(&["tls"], &["does not speak TLS", "the scheme and the port"]);
    let config = tls(&vault, &ca).replace("https://", "http://");
    check(node(&config).path(), &[]).fails(&["server"], &["HTTPS", "https://"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_outside_or_near_the_end_of_their_validity_are_found() {
    let now = [-DAY, 365 * DAY];
    let range = |from: i64, to: i64| from..to;
    for (server, authority, outcome, words) in [
        (
            range(-2 * DAY, -DAY),
            range(now[0], now[1]),
            "fail",
            ["expired at", "renew the server's certificate"],
        ),
        (range(DAY, 2 * DAY), range(now[0], now[1]), "fail", ["is valid from", "timedatectl"]),
        (range(-DAY, 5 * DAY), range(now[0], now[1]), "warn", ["CN=server expires in", "renew it"]),
        (
            range(-DAY, 90 * DAY),
            range(-DAY, 20 * DAY),
            "warn",
            ["CN=test authority expires in", "to vault.ca_file"],
        ),
    ] {
        let pki = Pki::valid(&["127.0.0.1"], server, authority);
        // The tests' own requests would fail at a server whose certificate has expired.
        let address = fake::tls(&pki).await;
        let vault = Vault::start().await;
        let config = vault.vault_config().replace(
            &format!("addresses = [{:?}]", vault.address),
            &format!("addresses = [{address:?}, {:?}]\nca_file = {:?}", vault.address, pki.ca),
        );
        let found = check(node(&config).path(), &[]);
        match outcome {
            "fail" => found.fails(&["tls"], &words),
            _ => {
                let tls = found.findings.iter().find(|finding| finding["check"] == "tls").unwrap();
                assert_eq!(tls["outcome"], "warn", "{found:#?}");
                assert!(words.iter().all(|word| tls.to_string().contains(word)), "{tls:#}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_an_uninitialised_and_a_late_server_are_found() {
    let vault = Vault::start().await;
    let node = node(&vault.vault_config());
    vault.seal().await;
    check(node.path(), &[]).fails(&["server"], &["sealed", "vault operator unseal"]);
    vault.unseal().await;
    check(node.path(), &[]).is_green();
    let with = async |health: serde_json::Value| {
        let text: &'static str = Box::leak(health.to_string().into_boxed_str());
        fake::always(200, "application/json", text).await
    };
    let one = |address: &str| self::node(&vault.vault_config().replace(&vault.address, address));
    let empty = with(json!({ "initialized": false, "sealed": true, "version": "1.2.3" })).await;
    check(one(&empty).path(), &[]).fails(&["server"], &["not initialised", "raft join"]);
    let ahead = json!({ "initialized": true, "sealed": false, "version": "1.2.3", "server_time_utc": 1_000 });
    let late = check(one(&with(ahead).await).path(), &["--no-login"]);
    let server = late.findings.iter().find(|finding| finding["check"] == "server").unwrap();
    assert!(server["outcome"] == "warn" && server["remedy"].as_str().unwrap().contains("NTP"), "{server:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_vaults_are_found() {
    let vault = Vault::start().await;
    for (status, kind, body) in [
        (200, "text/html", "<html>We are moving</html>"),
        (200, "application/json", "{\"sealed\": \"perhaps\"}"),
        (200, "application/json", "[1, 2"),
        (403, "text/html", "<html>Forbidden</html>"),
        (500, "text/plain", ""),
    ] {
        let page = fake::always(status, kind, body).await;
        let config = vault.vault_config().replace(&vault.address, &page);
        check(node(&config).path(), &[]).fails(&["server"], &["Vault"]);
    }
    assert_eq!(vault.count(&format!("transit/keys/{KEY}")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_client_certificate_is_found() {
    let vault = Vault::start().await;
    for (range, outcome) in [(-2 * DAY..-DAY, "fail"), (-DAY..5 * DAY, "warn")] {
        let pki = Pki::valid(&["127.0.0.1"], range, -DAY..365 * DAY);
        let client =
            format!("client_cert_file = {:?}\nclient_key_file = {:?}", pki.client_cert, pki.client_key);
        let found = check(node(&tls(&vault, &client)).path(), &[]);
        match outcome {
            "fail" => found.fails(&["credentials"], &["CN=node-1 has expired", "have a new one signed"]),
            _ => found.warns(&["credentials", "socket"], &["CN=node-1 expires in", "have a new one signed"]),
        }
    }
}
