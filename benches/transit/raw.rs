//! Transit itself: the requests that the agent makes, sent by the same HTTP and TLS libraries from the benchmark's own
//! process, over connections that are kept.

use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::kms::SEED;
use crate::support::pki::Pki;
use crate::support::vault::{KEY, Vault};

/// Where Transit is, and what may ask it.
#[derive(Clone)]
pub struct Transit {
    authority: String,
    tls: TlsConnector,
    token: String,
}

impl Transit {
    /// With a token of the plugin's role: the server checks less for a root token.
    pub async fn new(vault: &Vault, pki: &Pki) -> Self {
        let authority = vault.address.trim_start_matches("https://").to_owned();
        let tls = TlsConnector::from(Arc::new(pki.client_config()));
        let transit = Self { authority, tls, token: String::new() };
        let token = transit.connect().await.login(vault).await;
        Self { token, ..transit }
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    pub async fn connect(&self) -> Connection {
        let stream = TcpStream::connect(&self.authority).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = self.tls.connect(name, stream).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Connection { sender, authority: self.authority.clone(), token: self.token.clone() }
    }
}

/// One connection, for one request at a time.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
    token: String,
}

impl Connection {
    /// Returns a token.
    async fn login(&mut self, vault: &Vault) -> String {
        let id = |name| std::fs::read_to_string(vault.file(name)).unwrap();
        let body = json!({ "role_id": id("role-id"), "secret_id": id("secret-id") });
        let answer = self.send(Method::POST, "auth/approle/login", body).await;
        answer["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    pub async fn encrypt(&mut self) -> String {
        let body = json!({ "plaintext": data_encoding::BASE64.encode(&SEED), "key_version": 1 });
        let answer = self.send(Method::POST, &format!("transit/encrypt/{KEY}"), body).await;
        answer["data"]["ciphertext"].as_str().unwrap().to_owned()
    }

    pub async fn decrypt(&mut self, ciphertext: &str) {
        let body = json!({ "ciphertext": ciphertext });
        let answer = self.send(Method::POST, &format!("transit/decrypt/{KEY}"), body).await;
        assert_eq!(answer["data"]["plaintext"], data_encoding::BASE64.encode(&SEED));
    }

    /// What an agent asks for before it is ready.
    pub async fn start(&mut self, vault: &Vault) {
        self.token = self.login(vault).await;
        self.send(Method::GET, &format!("transit/keys/{KEY}"), Value::Null).await;
        let ciphertext = self.encrypt().await;
        self.decrypt(&ciphertext).await;
    }

    async fn send(&mut self, method: Method, path: &str, body: Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header("host", &self.authority)
            .header("x-vault-token", &self.token)
            .body(Full::from(body))
            .unwrap();
        self.sender.ready().await.unwrap();
        let answer = self.sender.send_request(request).await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }
}
