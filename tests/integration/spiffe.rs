//! Logins with identities of the SPIFFE Workload API. The API here is a fake from its published protocol: it plays the
//! answers of a SPIRE agent. `tests/spire/run` has the same logins with a real SPIRE.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::check::node;
use crate::compat::started;
use crate::support::agent::{Agent, QUICK, QUIET};
use crate::support::checked::check;
use crate::support::eventually;
use crate::support::jwt::Signer;
use crate::support::pki::Pki;
use crate::support::vault::{KEY, Vault};

mod messages {
    tonic::include_proto!("_");
}

use messages::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use messages::{Jwtsvid, JwtsvidRequest, JwtsvidResponse, X509svid, X509svidRequest, X509svidResponse};

const ID: &str = "spiffe://example.org/kms-plugin";
const OTHER: &str = "spiffe://example.org/other";

/// The trust domain and its Workload API.
#[derive(Clone)]
struct Domain {
    jwt: Arc<Signer>,
    authority: Arc<Issuer<'static, KeyPair>>,
    authority_pem: String,
    /// The X.509-SVIDs; empty while the caller has no identity.
    svids: watch::Sender<Vec<X509svid>>,
}

impl Domain {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "example.org");
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            jwt: Arc::new(Signer::new()),
            authority: Arc::new(Issuer::new(params, key)),
            authority_pem: pem,
            svids: watch::channel(Vec::new()).0,
        }
    }

    /// Registers the caller, or replaces its certificate.
    fn issue(&self) {
        let svid = |id: &str| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
            params.distinguished_name.push(DnType::CommonName, "kms-plugin");
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let certificate = params.signed_by(&key, &self.authority).unwrap();
            X509svid {
                spiffe_id: id.to_owned(),
                x509_svid: certificate.der().to_vec(),
                x509_svid_key: key.serialize_der(),
            }
        };
        self.svids.send_replace(vec![svid(OTHER), svid(ID)]);
    }

    fn revoke(&self) {
        self.svids.send_replace(Vec::new());
    }

    /// Serves the API; the directory holds its socket.
    fn serve(&self) -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let incoming = futures_util::stream::unfold(listener, async |listener| {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let service = SpiffeWorkloadApiServer::new(self.clone());
        tokio::spawn(
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(Box::pin(incoming)),
        );
        (directory, path)
    }

    /// What SPIRE checks before everything else.
    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        if request.metadata().get("workload.spiffe.io").is_none_or(|value| value != "true") {
            return Err(Status::invalid_argument("security header missing from request"));
        }
        match self.svids.borrow().is_empty() {
            true => Err(Status::permission_denied("no identity issued")),
            false => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Domain {
    type FetchX509SVIDStream =
        Pin<Box<dyn futures_util::Stream<Item = Result<X509svidResponse, Status>> + Send>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.admit(&request)?;
        let mut watched = self.svids.subscribe();
        watched.mark_changed();
        let answers = futures_util::stream::unfold(watched, async |mut watched| {
            watched.changed().await.ok()?;
            let svids = watched.borrow_and_update().clone();
            Some((Ok(X509svidResponse { svids }), watched))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        self.admit(&request)?;
        let JwtsvidRequest { audience, spiffe_id } = request.into_inner();
        let ids = [OTHER, ID].into_iter().filter(|id| spiffe_id.is_empty() || spiffe_id == *id);
        let svids = ids.map(|id| Jwtsvid { spiffe_id: id.into(), svid: self.jwt.sign(id, &audience[0]) });
        Ok(Response::new(JwtsvidResponse { svids: svids.collect() }))
    }
}

fn config(vault: &Vault, tls: &str, spiffe: &str, auth: &str) -> String {
    format!(
        "[vault]\naddresses = [{:?}]\n{tls}[vault.spiffe]\n{spiffe}[vault.transit]\nkey = {KEY:?}\n[vault.auth]\n{auth}",
        vault.address
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn jwt_login_with_a_jwt_svid() {
    let vault = Vault::start().await;
    let domain = Domain::new();
    vault.post("sys/auth/jwt", json!({ "type": "jwt" })).await;
    vault.post("auth/jwt/config", json!({ "jwt_validation_pubkeys": [domain.jwt.public_pem()] })).await;
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "bound_subject": ID,
        "token_policies": "kms",
    });
    vault.post("auth/jwt/role/nodes", role).await;
    let (_directory, socket) = domain.serve();
    let with = |spiffe: &str| {
        let spiffe = format!("socket = \"unix://{}\"\n{spiffe}", socket.display());
        config(&vault, "", &spiffe, "method = \"jwt\"\nrole = \"nodes\"\n")
    };
    let good = with(&format!("audience = \"vault\"\nid = {ID:?}\n"));
    // Nobody has registered this process yet.
    let agent = Agent::start(&(good.clone() + QUICK));
    let status = agent.wait_for_reason("starting", "credentials_unreadable").await;
    let reason = status["reason"].to_string();
    assert!(
        reason.contains("no identity issued") && reason.contains("spire-server entry create"),
        "{reason}"
    );
    assert_eq!(check(node(&good).path(), &[]).outcomes("credentials"), ["skipped"]);
    domain.issue();
    agent.wait_for_phase("ready").await;
    agent.kms().await.round_trip().await;
    let status = agent.status().unwrap();
    assert_eq!(status["primary"]["token"]["method"], "jwt");
    let found = check(node(&good).path(), &[]);
    found.is_green();
    found.says("credentials", "ok", &["JWT-SVID for vault"]);
    // The same by the flags of another plugin.
    let flags = [
        format!("-vault-address={}", vault.address),
        format!("-transit-key={KEY}"),
        "-auth-method=jwt".to_owned(),
        "-jwt-role=nodes".to_owned(),
        "-jwt-token-source=spiffe".to_owned(),
        "-jwt-spiffe-audience=vault".to_owned(),
        format!("-jwt-spiffe-id={ID}"),
    ];
    let endpoint = [("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", socket.display()))];
    started("-socket", &flags, &endpoint).await.kms().await.round_trip().await;
    // The first of several identities is not the one that the role binds.
    let other = Agent::start(&(with("audience = \"vault\"\n") + QUICK));
    let status = other.wait_for_reason("failed", "credentials_refused").await;
    assert!(status["reason"].to_string().contains("bound_subject"), "{status}");
    let unknown = Agent::start(&(with("audience = \"vault\"\nid = \"spiffe://example.org/no\"\n") + QUICK));
    let status = unknown.wait_for_reason("starting", "credentials_unreadable").await;
    assert!(status["reason"].to_string().contains("does not give spiffe://example.org/no"), "{status}");
    // The API goes away: the token stays in use.
    domain.revoke();
    std::fs::remove_file(&socket).unwrap();
    agent.kms().await.round_trip().await;
    let found = check(node(&good).path(), &[]);
    found.fails(&["credentials"], &["cannot be reached", "vault.spiffe.socket"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cert_login_with_an_x509_svid_that_is_replaced() {
    let pki = Pki::new(&["127.0.0.1"]);
    let vault = Vault::with_tls(&pki).await;
    let domain = Domain::new();
    vault.post("sys/auth/cert", json!({ "type": "cert" })).await;
    let role = json!({
        "certificate": domain.authority_pem, "allowed_uri_sans": ID, "token_policies": "kms",
    });
    vault.post("auth/cert/certs/nodes", role).await;
    let (_directory, socket) = domain.serve();
    let config = config(
        &vault,
        &format!("ca_file = {:?}\n", pki.ca),
        &format!("socket = {socket:?}\nid = {ID:?}\n"),
        "method = \"cert\"\nrole = \"nodes\"\n",
    );
    let agent = Agent::start(&(config.clone() + QUIET));
    agent.wait_for_reason("starting", "credentials_unreadable").await;
    domain.issue();
    agent.wait_for_phase("ready").await;
    let mut kms = agent.kms().await;
    kms.round_trip().await;
    assert_eq!(vault.count("auth/cert/login"), 1);
    let found = check(node(&config).path(), &[]);
    found.is_green();
    found.says("credentials", "ok", &["X.509-SVID of", ID]);
    // A new certificate: a new login with it, without an error.
    let before = vault.count("auth/cert/login");
    domain.issue();
    eventually("a login with the new certificate", async || {
        kms.round_trip().await;
        let logins = vault.count("auth/cert/login");
        if logins > before { Ok(()) } else { Err(format!("{logins} logins\n{}", agent.log())) }
    })
    .await;
    assert!(agent.log().contains("the X.509-SVID was replaced"), "{}", agent.log());
    assert!(!agent.log().contains("PRIVATE"), "{}", agent.log());
}
