//! Fakes, only for what the real server cannot be made to do here.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::{any, post};
use kms_plugin::proto::key_management_service_server::{KeyManagementService, KeyManagementServiceServer};
use kms_plugin::proto::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tonic::{Request, Response, Status};

use super::pki::Pki;

/// Serves a router on a free loopback port; its address.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// The API server's TokenReview, which accepts every token as one of this service account.
pub async fn token_review(namespace: &'static str, name: &'static str) -> String {
    let review = move || async move {
        let user = json!({ "username": format!("system:serviceaccount:{namespace}:{name}"), "uid": "1" });
        let status = json!({ "authenticated": true, "user": user, "audiences": ["vault"] });
        let review =
            json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status });
        (StatusCode::CREATED, axum::Json(review))
    };
    serve(Router::new().route("/apis/authentication.k8s.io/v1/tokenreviews", post(review))).await
}

/// A server, or a proxy, that answers every request in the same way.
pub async fn always(status: u16, content_type: &'static str, body: &'static str) -> String {
    let answer = move || async move {
        (StatusCode::from_u16(status).unwrap(), [(header::CONTENT_TYPE, content_type)], body)
    };
    serve(Router::new().fallback(any(answer))).await
}

/// A server that only does the TLS handshake, with this certificate, valid or not.
pub async fn tls(pki: &Pki) -> String {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(pki.server_config()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move { acceptor.accept(stream).await.map(drop) });
        }
    });
    address
}

/// A server that redirects every request, as a standby does.
pub async fn redirect(to: String) -> String {
    let answer = move |uri: axum::http::Uri| {
        let location = format!("{to}{uri}");
        async move { (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]) }
    };
    serve(Router::new().fallback(any(answer))).await
}

/// What is wrong with a plugin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    Nothing,
    Unhealthy,
    EmptyKeyId,
    PlaintextBack,
    WrongBytes,
    LongCiphertext,
    DecryptFails,
}

/// Somebody else's KMS v2 plugin, with a flaw.
pub struct Plugin(pub Flaw);

impl Plugin {
    /// Serves it on a socket.
    pub fn serve(self, socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        let incoming = futures_util::stream::unfold(listener, async |listener| {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let server = tonic::transport::Server::builder().add_service(KeyManagementServiceServer::new(self));
        tokio::spawn(server.serve_with_incoming(incoming));
    }
}

#[tonic::async_trait]
impl KeyManagementService for Plugin {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let healthz = if self.0 == Flaw::Unhealthy { "the moon is full" } else { "ok" };
        let key_id = if self.0 == Flaw::EmptyKeyId { "" } else { "1" };
        Ok(Response::new(StatusResponse {
            version: "v2".into(),
            healthz: healthz.into(),
            key_id: key_id.into(),
        }))
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let mut ciphertext = request.into_inner().plaintext;
        if self.0 != Flaw::PlaintextBack {
            ciphertext.iter_mut().for_each(|byte| *byte ^= 0x55);
        }
        if self.0 == Flaw::LongCiphertext {
            ciphertext.resize(1025, 0);
        }
        Ok(Response::new(EncryptResponse { ciphertext, key_id: "1".into(), annotations: HashMap::new() }))
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        if self.0 == Flaw::DecryptFails {
            return Err(Status::internal("the key fell into the sea"));
        }
        let mut plaintext = request.into_inner().ciphertext;
        plaintext.iter_mut().for_each(|byte| *byte ^= 0x55);
        if self.0 == Flaw::WrongBytes {
            plaintext.reverse();
        }
        Ok(Response::new(DecryptResponse { plaintext }))
    }
}
