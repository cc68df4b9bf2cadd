//! Handshakes with servers that are wrong in one way each: the agent's own client says what is wrong, and what to do.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::clock::Deadline;
use crate::config::settings::KeyServiceSettings;
use crate::config::{Merged, Settings, Sources};
use crate::vault::Inspector;

/// How long a test waits for an answer that must come.
const PATIENCE: Duration = Duration::from_secs(60);
const DAY: i64 = 86_400;

/// The time this many seconds from now. A macro, since its type is of a crate that is not a dependency.
macro_rules! from_now {
    ($seconds:expr) => {{
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs((now + $seconds) as u64)
    }};
}

/// A certificate with its key.
struct Certified {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Certified {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.der().clone()]
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

/// An authority, and the files of an agent that trusts it.
struct Authority {
    directory: tempfile::TempDir,
    own: Certified,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        let copy = KeyPair::try_from(key.serialize_der()).unwrap();
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { directory, own: Certified { certificate, key: copy }, issuer: Issuer::new(params, key) }
    }

    fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A certificate of a server on 127.0.0.1, after these changes.
    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Certified {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = (from_now!(-DAY), from_now!(DAY));
        change(&mut params);
        Certified { certificate: params.signed_by(&key, &self.issuer).unwrap(), key }
    }

    /// The files of a client certificate: two flags.
    fn client(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> [(String, String); 2] {
        let issued = self.issue(|params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            change(params);
        });
        let path = |suffix: &str| self.directory.path().join(format!("{name}{suffix}"));
        std::fs::write(path(".pem"), issued.certificate.pem()).unwrap();
        crate::files::replace(&path("-key.pem"), issued.key.serialize_pem().as_bytes()).unwrap();
        [
            ("vault.client_cert_file".into(), path(".pem").display().to_string()),
            ("vault.client_key_file".into(), path("-key.pem").display().to_string()),
        ]
    }
}

fn server_with(
    certified: &Certified,
    clients: Option<&Authority>,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_protocol_versions(versions).unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.own.certificate.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    builder.with_single_cert(certified.chain(), certified.key()).unwrap()
}

fn server(certified: &Certified) -> ServerConfig {
    server_with(certified, None, rustls::ALL_VERSIONS)
}

/// Serves handshakes until it is dropped. Without a configuration it answers as a server without TLS.
async fn serving(config: Option<ServerConfig>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let Some(config) = config.clone() else {
                let _sent = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\nno TLS here").await;
                continue;
            };
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            let mut request = [0; 1024];
            match acceptor.accept(stream).into_fallible().await {
                Ok(mut stream) => {
                    let _read = stream.read(&mut request).await;
                    let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
                    let _sent = stream.write_all(answer).await;
                }
                // A connection that is closed before everything is read is reset, and an alert may be lost.
                Err((_, mut stream)) => {
                    let rest =
                        async { while stream.read(&mut request).await.is_ok_and(|count| count > 0) {} };
                    let _ended = tokio::time::timeout(Duration::from_millis(500), rest).await;
                }
            }
        }
    });
    (address, tasks)
}

/// What the agent says about a server.
async fn said(config: Option<ServerConfig>, flags: &[(String, String)]) -> String {
    let (address, _tasks) = serving(config).await;
    let mut all: Vec<(String, String)> = [
        ("vault.transit.key", "kms-key"),
        ("vault.auth.method", "token"),
        ("vault.auth.token_file", "/token"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .to_vec();
    all.push(("vault.addresses".into(), format!("https://{address}")));
    all.extend(flags.iter().cloned());
    let merged = Merged::load(&Sources { flags: all, ..Sources::default() }).unwrap();
    let KeyServiceSettings::Vault(vault) = Settings::from_merged(&merged).unwrap().primary else {
        panic!("no Vault")
    };
    let inspector = Inspector::new(&vault).unwrap();
    let error = inspector.health(0, Deadline::after(PATIENCE)).await.unwrap_err();
    format!("{error}; {}", error.remedy())
}

#[tokio::test]
async fn each_failed_handshake_is_named_with_its_cause_and_its_remedy() {
    let (authority, other) = (Authority::new("authority"), Authority::new("other authority"));
    let twin = Authority::new("authority");
    let ca = [("vault.ca_file".to_owned(), authority.ca_file().display().to_string())];
    let with = |client: [(String, String); 2]| [&ca[..], &client[..]].concat();
    let good = authority.issue(|_| {});
    let mutual = || Some(server_with(&good, Some(&authority), rustls::ALL_VERSIONS));
    let mutual_12 = || Some(server_with(&good, Some(&authority), &[&rustls::version::TLS12]));
    let named = |name: &str| {
        let name = name.to_owned();
        authority.issue(|params| params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())])
    };
    let expired_client = authority.client("expired", |params| params.not_after = from_now!(-60));
    let stranger = other.client("stranger", |_| {});
    let of_twin = twin.client("twin", |_| {});
    let not_for_clients = authority
        .client("server", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);

    for (name, config, flags, what, remedy) in [
        (
            "expired",
            Some(server(&authority.issue(|params| params.not_after = from_now!(-60)))),
            ca.to_vec(),
            "certificate that expired at 20",
            "renew the server's certificate",
        ),
        (
            "of tomorrow",
            Some(server(&authority.issue(|params| params.not_before = from_now!(3600)))),
            ca.to_vec(),
            "is valid from 20",
            "clock is probably slow",
        ),
        (
            "self-signed CA",
            Some(server(&authority.own)),
            ca.to_vec(),
            "certificate of an authority as its own",
            "tls_cert_file",
        ),
        (
            "self-signed CA of others",
            Some(server(&other.own)),
            ca.to_vec(),
            "certificate of an authority as its own",
            "tls_cert_file",
        ),
        (
            "unknown authority",
            Some(server(&other.issue(|_| {}))),
            ca.to_vec(),
            "unknown authority",
            "vault.ca_file",
        ),
        (
            "another name",
            Some(server(&named("vault.example"))),
            ca.to_vec(),
            "for another name",
            "vault.server_name",
        ),
        (
            "no name",
            Some(server(&authority.issue(|params| params.subject_alt_names.clear()))),
            ca.to_vec(),
            "without a name in subjectAltName",
            "subjectAltName",
        ),
        (
            "not for servers",
            Some(server(
                &authority
                    .issue(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            )),
            ca.to_vec(),
            "is not for servers",
            "serverAuth",
        ),
        (
            "wants a certificate, TLS 1.3",
            mutual(),
            ca.to_vec(),
            "wants a client certificate",
            "vault.client_cert_file",
        ),
        (
            "refuses an expired one",
            mutual(),
            with(expired_client.clone()),
            "does not accept the client certificate of the agent: it has expired",
            "tls_client_ca_file",
        ),
        (
            "refuses that of a stranger",
            mutual(),
            with(stranger.clone()),
            "does not accept the client certificate of the agent: it does not know the authority",
            "tls_client_ca_file",
        ),
        (
            "refuses that of a twin",
            mutual(),
            with(of_twin),
            "another authority with the same name",
            "tls_client_ca_file",
        ),
        (
            "refuses one for servers",
            mutual(),
            with(not_for_clients),
            "does not accept the client certificate",
            "tls_client_ca_file",
        ),
        (
            "refuses an expired one, TLS 1.2",
            mutual_12(),
            with(expired_client),
            "it has expired",
            "tls_client_ca_file",
        ),
        (
            "refuses that of a stranger, TLS 1.2",
            mutual_12(),
            with(stranger),
            "does not know the authority",
            "tls_client_ca_file",
        ),
        ("no TLS", None, ca.to_vec(), "does not speak TLS on this port", "scheme and the port"),
    ] {
        let said = said(config, &flags).await;
        assert!(said.contains(what), "{name}: {what:?} in {said}");
        assert!(said.contains(remedy), "{name}: {remedy:?} in {said}");
        assert!(
            said.starts_with("https://127.0.0.1:") && !said.contains("cannot be reached"),
            "{name}: {said}"
        );
    }
    // A server that is right: the handshake ends, and the answer is not Vault's.
    let said = said(Some(server(&good)), &ca).await;
    assert!(!said.contains("certificate"), "{said}");
}
