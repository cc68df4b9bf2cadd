//! An admission webhook of a test's own, over TLS, as a real kube-apiserver calls it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::routing::post;
use axum::serve::Listener;
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::apiserver::Client;
use crate::support::eventually;
use crate::support::pki::Pki;

/// The name of the webhook in its configuration, as refusals show it.
pub const NAME: &str = "closed.e2e.example";
/// What it says when it refuses.
pub const REFUSAL: &str = "the namespace is closed";
const CONFIGURATION: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

/// A running webhook, which refuses every update of a Secret in one namespace: with the status at the end of the Secret's
/// name, such as 429 for `kept-429`, else with none of its own. kube-apiserver makes 400 of that.
pub struct Webhook {
    pki: Pki,
    address: SocketAddr,
    asked: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

/// Accepts TLS.
struct Tls(TcpListener, TlsAcceptor);

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, peer)) = self.0.accept().await else { continue };
            if let Ok(stream) = self.1.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

impl Webhook {
    /// Starts it, and registers it. It answers for this namespace with a refusal, for others with a permission.
    pub async fn start(client: &Client, namespace: &'static str) -> Self {
        let pki = Pki::new(&["127.0.0.1"]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(pki.server_config()));
        let asked = Arc::<AtomicU64>::default();
        let counter = asked.clone();
        let review = move |Json(review): Json<Value>| async move {
            counter.fetch_add(1, Ordering::Relaxed);
            let request = &review["request"];
            let allowed = request["namespace"] != namespace;
            let name = request["name"].as_str().unwrap();
            let code: Option<u16> = name.rsplit('-').next().and_then(|end| end.parse().ok());
            let refusal = json!({ "message": REFUSAL, "code": code, "reason": code.map(|_| "Conflict") });
            Json(json!({
                "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                "response": {
                    "uid": request["uid"], "allowed": allowed,
                    "status": if allowed { Value::Null } else { refusal },
                },
            }))
        };
        let router = Router::new().route("/validate", post(review));
        let task = tokio::spawn(async move { axum::serve(Tls(listener, acceptor), router).await.unwrap() });
        let webhook = Self { pki, address, asked, task };
        let made =
            client.call(Method::POST, CONFIGURATION, &webhook.configuration(&json!({}))).await.unwrap();
        assert_eq!(made.status, 201, "{made:?}");
        webhook
    }

    fn configuration(&self, more: &Value) -> Value {
        let authority = std::fs::read(&self.pki.ca).unwrap();
        let mut webhook = json!({
            "name": NAME, "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
            "failurePolicy": "Fail",
            "clientConfig": {
                "url": format!("https://{}/validate", self.address), "caBundle": BASE64_STANDARD.encode(authority),
            },
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["secrets"],
            }],
        });
        webhook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": { "name": "closed" }, "webhooks": [webhook],
        })
    }

    /// Replaces the configuration by one with these further fields.
    pub async fn configure(&self, client: &Client, more: &Value) {
        let path = format!("{CONFIGURATION}/closed");
        let (configuration, merge) = (self.configuration(more), "application/merge-patch+json");
        let configured =
            client.call_as(Method::PATCH, &path, &configuration, merge, "application/json").await;
        let configured = configured.unwrap();
        assert_eq!(configured.status, 200, "{configured:?}");
    }

    /// Waits until the API server's answer to a change of this object is this one: it takes a moment to see a
    /// configuration.
    pub async fn in_force(client: &Client, object: &str, status: u16) {
        let mut attempt = 0;
        eventually("the webhook", async || {
            attempt += 1;
            let body = json!({ "metadata": { "labels": { "attempt": format!("{attempt}") } } });
            let merge = "application/merge-patch+json";
            let answer = client.call_as(Method::PATCH, object, &body, merge, "application/json").await?;
            if answer.status == status { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
    }

    /// How often it was asked.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Ends the server. The configuration stays, so that changes of this object fail.
    pub async fn stop_for(&self, client: &Client, object: &str) {
        self.task.abort();
        Self::in_force(client, object, 500).await;
    }
}
