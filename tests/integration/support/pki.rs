//! A certificate authority of a test's own, with a server's and a client's certificate in files.

use std::fs::{self, Permissions};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

/// In seconds.
const DAY: i64 = 86_400;
const YEAR: i64 = 365 * DAY;

/// The time this many seconds from now. A macro, since its type is of a crate that is not a dependency.
macro_rules! from_now {
    ($seconds:expr) => {{
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs((now + $seconds) as u64)
    }};
}

/// The files.
pub struct Pki {
    _directory: TempDir,
    server_name: String,
    pub ca: PathBuf,
    pub server_cert: PathBuf,
    pub server_key: PathBuf,
    pub client_cert: PathBuf,
    pub client_key: PathBuf,
}

impl Pki {
    /// An authority, and a server's certificate for these names.
    pub fn new(server_names: &[&str]) -> Self {
        Self::valid(server_names, -DAY..YEAR, -DAY..YEAR)
    }

    /// The same with times of validity, in seconds from now: of the server's certificate, and of the authority's.
    pub fn valid(server_names: &[&str], server: Range<i64>, authority: Range<i64>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            path
        };
        let ca_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) = (from_now!(authority.start), from_now!(authority.end));
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let issue = |names: &[&str], purposes: &[ExtendedKeyUsagePurpose], common_name: &str| {
            let key = KeyPair::generate().unwrap();
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let mut params = CertificateParams::new(names).unwrap();
            params.extended_key_usages = purposes.to_vec();
            (params.not_before, params.not_after) = (from_now!(server.start), from_now!(server.end));
            params.distinguished_name.push(DnType::CommonName, common_name);
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        let (server, client) = (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
        // etcd's gateway connects to etcd itself with the server's certificate, so that this one is for clients, too.
        let (server_cert, server_key) = issue(server_names, &[server, client.clone()], "server");
        let (client_cert, client_key) = issue(&["node-1"], &[client], "node-1");
        Self {
            ca: write("ca.pem", ca.pem()),
            server_cert: write("server.pem", server_cert),
            server_key: write("server-key.pem", server_key),
            client_cert: write("client.pem", client_cert),
            client_key: write("client-key.pem", client_key),
            _directory: directory,
            server_name: server_names[0].to_owned(),
        }
    }

    /// TLS for the tests' own requests.
    pub fn client_config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.ca).unwrap()).unwrap();
        config(roots)
    }

    /// TLS for a server of the tests' own.
    pub fn server_config(&self) -> rustls::ServerConfig {
        let chain = vec![CertificateDer::from_pem_file(&self.server_cert).unwrap()];
        let key = rustls::pki_types::PrivateKeyDer::from_pem_file(&self.server_key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap()
    }

    /// A name in the server's certificate.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    /// For servers without TLS.
    pub fn no_tls() -> ClientConfig {
        config(RootCertStore::empty())
    }
}

fn config(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}
