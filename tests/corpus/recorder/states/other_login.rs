//! Logins by JWT, by Kubernetes, and by certificate that are refused.

use serde_json::{Value, json};

use super::set_up;
use crate::answer::Recorder;
use crate::call::{self, Call};
use crate::server::{Options, Server};
use crate::support::fake;
use crate::support::jwt::Signer;
use crate::support::pki::Pki;

pub async fn record(recorder: &Recorder) {
    let server = super::usual(recorder.product).await;
    jwt(recorder, &server).await;
    kubernetes(recorder, &server).await;
    certificate(recorder, &server).await;
}

fn login(mount: &str, fields: Value) -> Call {
    call::login(&format!("auth/{mount}/login"), fields)
}

async fn jwt(recorder: &Recorder, server: &Server) {
    let (signer, stranger) = (Signer::new(), Signer::new());
    server.put("sys/auth/jwt", json!({ "type": "jwt" })).await;
    let config = json!({ "jwt_validation_pubkeys": [signer.public_pem()], "bound_issuer": "test" });
    server.put("auth/jwt/config", config).await;
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "bound_subject": "node",
        "token_policies": ["kms"], "clock_skew_leeway": -1, "expiration_leeway": -1, "not_before_leeway": -1,
    });
    server.put("auth/jwt/role/kms", role).await;
    let ask = async |name: &str, words: &str, role: &str, jwt: String| {
        let state = recorder.state(&format!("jwt-{name}"), words);
        state.ask(server, login("jwt", json!({ "role": role, "jwt": jwt }))).await;
    };
    ask("right", "the JWT is right", "kms", signer.sign("node", "vault")).await;
    ask("wrong-signature", "the JWT is signed by another key", "kms", stranger.sign("node", "vault")).await;
    ask("expired", "the JWT has expired", "kms", signer.sign_for("node", "vault", -600)).await;
    ask("wrong-audience", "the JWT is for another audience", "kms", signer.sign("node", "other")).await;
    ask("wrong-subject", "the JWT has another subject", "kms", signer.sign("pod", "vault")).await;
    ask("unknown-role", "there is no such role", "nobody", signer.sign("node", "vault")).await;
    ask("malformed", "the file holds no JWT", "kms", "no JWT".into()).await;
}

async fn kubernetes(recorder: &Recorder, server: &Server) {
    let signer = Signer::new();
    let role = json!({
        "bound_service_account_names": "kms-plugin", "bound_service_account_namespaces": "kube-system",
        "token_policies": "kms", "audience": "vault",
    });
    server.put("sys/auth/kubernetes", json!({ "type": "kubernetes" })).await;
    // It wants an authority even for an API server without TLS.
    let authority = std::fs::read_to_string(Pki::new(&["127.0.0.1"]).ca).unwrap();
    let configure = async |host: String| {
        let config = json!({
            "kubernetes_host": host, "disable_local_ca_jwt": true, "kubernetes_ca_cert": authority, "token_reviewer_jwt": signer.sign("reviewer", "x"),
        });
        server.put("auth/kubernetes/config", config).await;
        server.put("auth/kubernetes/role/kms", role.clone()).await;
    };
    let jwt = || signer.sign("system:serviceaccount:kube-system:kms-plugin", "vault");
    let ask = async |name: &str, words: &str, role: &str| {
        let state = recorder.state(&format!("kubernetes-{name}"), words);
        state.ask(server, login("kubernetes", json!({ "role": role, "jwt": jwt() }))).await;
    };
    configure(fake::token_review("kube-system", "kms-plugin").await).await;
    ask("right", "the service account's token is right", "kms").await;
    ask("unknown-role", "there is no such role", "nobody").await;
    configure(fake::token_review("kube-system", "other").await).await;
    ask("other-account", "the role is bound to another service account", "kms").await;
    let answer = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","status":{"authenticated":false,"error":"token has expired"}}"#;
    configure(fake::always(201, "application/json", answer).await).await;
    ask("expired", "the API server says that the token has expired", "kms").await;
    let answer = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}"#;
    configure(fake::always(401, "application/json", answer).await).await;
    ask("reviewer-refused", "the API server refuses the server's own reviewer token", "kms").await;
    configure("http://127.0.0.1:1".into()).await;
    ask("api-server-away", "the server cannot reach the API server", "kms").await;
}

async fn certificate(recorder: &Recorder, plain: &Server) {
    plain.put("sys/auth/cert", json!({ "type": "cert" })).await;
    let state = recorder.state("cert-over-http", "login by certificate on a listener without TLS");
    state.ask(plain, login("cert", json!({}))).await;

    let (pki, other) = (Pki::new(&["127.0.0.1"]), Pki::new(&["127.0.0.1"]));
    let options = Options { pki: Some(&pki), ..Options::default() };
    let mut server = Server::start(recorder.product, &options).await;
    server.initialise().await;
    server.unseal().await;
    set_up(&server).await;
    server.put("sys/auth/cert", json!({ "type": "cert" })).await;
    let state = recorder.state("cert-none", "the client sends no certificate");
    state.ask(&server, login("cert", json!({}))).await;
    let certificate = |pki: &Pki| std::fs::read_to_string(&pki.ca).unwrap();
    server
        .put("auth/cert/certs/kms", json!({ "certificate": certificate(&other), "token_policies": "kms" }))
        .await;
    let identity = reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(with_certificate(&pki))
        .build()
        .unwrap();
    let server = server.with_http(identity);
    let state = recorder.state("cert-untrusted", "the certificate is of an authority that no role trusts");
    state.ask(&server, login("cert", json!({}))).await;
    let state = recorder.state("cert-unknown-role", "there is no such certificate role");
    state.ask(&server, login("cert", json!({ "name": "nobody" }))).await;
    server
        .put("auth/cert/certs/kms", json!({ "certificate": certificate(&pki), "token_policies": "kms" }))
        .await;
    let state = recorder.state("cert-right", "the certificate is right");
    state.ask(&server, login("cert", json!({}))).await;
    let names = json!({ "certificate": certificate(&pki), "allowed_common_names": "other" });
    server.put("auth/cert/certs/kms", names).await;
    let state = recorder.state("cert-wrong-name", "the role is bound to another name");
    state.ask(&server, login("cert", json!({}))).await;
}

/// TLS with the client's certificate.
fn with_certificate(pki: &Pki) -> rustls::ClientConfig {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&pki.ca).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(&pki.client_cert).unwrap()],
            PrivateKeyDer::from_pem_file(&pki.client_key).unwrap(),
        )
        .unwrap()
}
