//! Requests that the server's HTTP side refuses, and faults behind it.

use serde_json::json;

use super::{set_up, token_with, usual};
use crate::answer::Recorder;
use crate::call::{self, Call};
use crate::server::{Options, Server};
use crate::support::pki::Pki;
use crate::support::product::Product;
use crate::support::vault::KEY;

pub async fn record(recorder: &Recorder) {
    let server = usual(recorder.product).await;
    let token = token_with(&server, &["kms", "default"]).await;
    let state = recorder.state("body-not-json", "the request's body is not JSON");
    state.ask(&server, call::encrypt(&token).body("{plaintext")).await;
    state.ask(&server, call::login("auth/approle/login", json!({})).body("{role")).await;
    let state = recorder.state("body-empty", "the request has no body");
    let mut empty = call::encrypt(&token);
    empty.body = None;
    state.ask(&server, empty).await;

    let state = recorder.state("path-without-v1", "a proxy has cut the path's beginning");
    let path = format!("/transit/encrypt/{KEY}");
    state.ask(&server, Call::post(&path, json!({})).token(&token).kind("encrypt")).await;
    state.ask(&server, Call::get("/sys/health").kind("health")).await;
    let state = recorder.state("path-with-prefix", "a proxy has left its own prefix in the path");
    let path = format!("/vault/v1/transit/keys/{KEY}");
    state.ask(&server, Call::get(&path).token(&token).kind("read_key")).await;

    large(recorder).await;
    tls(recorder).await;
    audit(recorder).await;
}

async fn large(recorder: &Recorder) {
    let options = Options { listener: "max_request_size = 2048", ..Options::default() };
    let mut server = Server::start(recorder.product, &options).await;
    server.initialise().await;
    server.unseal().await;
    set_up(&server).await;
    let token = token_with(&server, &["kms"]).await;
    let state =
        recorder.state("body-too-large", "the request is larger than the listener allows (max_request_size)");
    let body = json!({ "plaintext": "A".repeat(4096) }).to_string();
    state.ask(&server, call::encrypt(&token).body(&body)).await;
}

async fn tls(recorder: &Recorder) {
    let pki = Pki::new(&["127.0.0.1"]);
    let options = Options { pki: Some(&pki), settings: "ui = true\n", ..Options::default() };
    let server = Server::start(recorder.product, &options).await;
    let state = recorder.state("http-to-https", "plain HTTP to the port of HTTPS");
    let server = server.with_scheme("http");
    state.ask_all(&server, vec![call::encrypt("s.none"), call::health()]).await;

    let options = Options { settings: "ui = true\n", ..Options::default() };
    let server = Server::start(recorder.product, &options).await;
    let state = recorder.state("ui-root", "the root of a server with the web UI");
    state.ask(&server, Call::get("/").kind("health")).await;
}

/// Every audit device fails: the server refuses to serve what it cannot log.
async fn audit(recorder: &Recorder) {
    let (server, token) = with_failing_audit(recorder).await;
    let state = recorder.state("audit-blocked", "no audit device can be written");
    let calls = vec![call::encrypt(&token), call::read_key(&token), call::lookup(&token), call::health()];
    state.ask_all(&server, calls).await;
    state.ask(&server, call::approle("00000000-0000-4000-8000-000000000000", "wrong")).await;
}

/// A server whose only audit device is a socket that nobody listens on any more.
async fn with_failing_audit(recorder: &Recorder) -> (Server, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let open = std::thread::spawn(move || listener.accept().map(|(stream, _)| (listener, stream)));
    let settings = format!(
        "audit \"socket\" \"gone\" {{ options {{ address = {address:?}\n socket_type = \"tcp\"\n write_timeout = \"1s\" }} }}\n"
    );
    let openbao = recorder.product == Product::OpenBao;
    let settings = if openbao { settings.as_str() } else { "" };
    let options = Options { settings, without_audit_file: true, ..Options::default() };
    let mut server = Server::start(recorder.product, &options).await;
    server.initialise().await;
    server.unseal().await;
    if !openbao {
        let options = json!({ "address": address, "socket_type": "tcp", "write_timeout": "1s" });
        server.put("sys/audit/gone", json!({ "type": "socket", "options": options })).await;
    }
    set_up(&server).await;
    let token = token_with(&server, &["kms"]).await;
    // Both the listener and the connection.
    drop(open.join());
    // The first write to the closed connection may still succeed.
    for _ in 0..3 {
        server.send(&call::lookup(&token)).await;
    }
    (server, token)
}
