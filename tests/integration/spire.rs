//! Logins with identities of a real SPIRE: a server, and an agent that attests this process by its user id.
//!
//! `tests/spire/run` builds SPIRE and runs them; the build takes too long for each change. `spiffe` has the same with a
//! fake of the API that SPIRE's agent serves.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::agent::{Agent, QUIET};
use crate::support::eventually;
use crate::support::helper::{Helper, free_port};
use crate::support::pki::Pki;
use crate::support::tools;
use crate::support::vault::{KEY, Vault};

const ID: &str = "spiffe://example.org/kms-plugin";
/// The head of a P-256 public key in DER (RFC 5480): what follows are the coordinates.
const P256: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// A trust domain with one node.
struct Spire {
    _agent: Helper,
    server: Helper,
    socket: PathBuf,
}

fn program(name: &str) -> PathBuf {
    tools::find(name).unwrap_or_else(|| panic!("{name} is missing: `tests/spire/run` builds it"))
}

impl Spire {
    async fn start() -> Self {
        let port = free_port();
        let configuration = format!(
            "server {{ bind_address = \"127.0.0.1\"\n bind_port = \"{port}\"\n socket_path = \"server.sock\"\n\
             trust_domain = \"example.org\"\n data_dir = \".\"\n log_level = \"INFO\" }}\n\
             plugins {{\n DataStore \"sql\" {{ plugin_data {{ database_type = \"sqlite3\"\n\
             connection_string = \"data.sqlite3\" }} }}\n\
             NodeAttestor \"join_token\" {{ plugin_data {{}} }}\n KeyManager \"memory\" {{ plugin_data {{}} }}\n }}\n"
        );
        let arguments = ["run", "-config", "config"];
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("server.sock");
        let server = Helper::start(directory, &program("spire-server"), &configuration, &arguments);
        let server = server.listens(port).await.listens_on(&socket).await;
        let token = command(&server, &["token", "generate", "-spiffeID", "spiffe://example.org/node"]);
        let token = token.trim().strip_prefix("Token: ").unwrap().to_owned();
        let configuration = format!(
            "agent {{ data_dir = \".\"\n log_level = \"INFO\"\n trust_domain = \"example.org\"\n\
             server_address = \"127.0.0.1\"\n server_port = \"{port}\"\n socket_path = \"api.sock\"\n\
             insecure_bootstrap = true\n join_token = \"{token}\" }}\n\
             plugins {{\n NodeAttestor \"join_token\" {{ plugin_data {{}} }}\n\
             KeyManager \"memory\" {{ plugin_data {{}} }}\n WorkloadAttestor \"unix\" {{ plugin_data {{}} }}\n }}\n"
        );
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("api.sock");
        let agent = Helper::start(directory, &program("spire-agent"), &configuration, &arguments);
        let agent = agent.listens_on(&socket).await;
        Self { _agent: agent, server, socket }
    }

    /// Registers the user of this test. The certificates of the identity are valid for so many seconds.
    fn register(&self, seconds: u32) {
        let (user, seconds) = (format!("unix:uid:{}", nix::unistd::geteuid()), seconds.to_string());
        let entry = ["entry", "create", "-parentID", "spiffe://example.org/node", "-spiffeID", ID];
        // The name is the certificate's common name: the certificate method of the servers wants one.
        let more = ["-selector", &user, "-x509SVIDTTL", &seconds, "-dns", "kms-plugin"];
        command(&self.server, &[&entry[..], &more[..]].concat());
    }

    /// The public key that signs JWT-SVIDs, in PEM.
    fn jwt_key(&self) -> String {
        let bundle: Value =
            serde_json::from_str(&command(&self.server, &["bundle", "show", "-format", "spiffe"])).unwrap();
        let keys = bundle["keys"].as_array().unwrap();
        let key = keys.iter().find(|key| key["use"] == "jwt-svid").expect("a key for JWT-SVIDs");
        assert_eq!(key["crv"], "P-256", "{key}");
        let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
        let der = [&P256[..], &coordinate("x"), &coordinate("y")].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }
}

fn command(server: &Helper, arguments: &[&str]) -> String {
    let mut command = Command::new(program("spire-server"));
    let socket = server.file("server.sock");
    // The flags stand behind the two words of the command.
    command.args(&arguments[..2]).arg("-socketPath").arg(socket).args(&arguments[2..]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn config(vault: &Vault, tls: &str, socket: &Path, spiffe: &str, auth: &str) -> String {
    format!(
        "[vault]\naddresses = [{:?}]\n{tls}[vault.spiffe]\nsocket = {socket:?}\n{spiffe}[vault.transit]\nkey = {KEY:?}\n[vault.auth]\n{auth}",
        vault.address
    )
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs SPIRE: tests/spire/run"]
async fn jwt_login_with_spire() {
    let (vault, spire) = (Vault::start().await, Spire::start().await);
    vault.post("sys/auth/jwt", json!({ "type": "jwt" })).await;
    vault.post("auth/jwt/config", json!({ "jwt_validation_pubkeys": [spire.jwt_key()] })).await;
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "bound_subject": ID,
        "token_policies": "kms",
    });
    vault.post("auth/jwt/role/nodes", role).await;
    let config =
        config(&vault, "", &spire.socket, "audience = \"vault\"\n", "method = \"jwt\"\nrole = \"nodes\"\n");
    let agent = Agent::start(&(config + QUIET));
    let status = agent.wait_for_reason("starting", "credentials_unreadable").await;
    assert!(status["reason"].to_string().contains("no identity issued"), "{status}");
    spire.register(3600);
    agent.wait_for_phase("ready").await;
    agent.kms().await.round_trip().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs SPIRE: tests/spire/run"]
async fn cert_login_with_spire() {
    let pki = Pki::new(&["127.0.0.1"]);
    let (vault, spire) = (Vault::with_tls(&pki).await, Spire::start().await);
    vault.post("sys/auth/cert", json!({ "type": "cert" })).await;
    let authority = command(&spire.server, &["bundle", "show"]);
    let role = json!({ "certificate": authority, "allowed_uri_sans": ID, "token_policies": "kms" });
    vault.post("auth/cert/certs/nodes", role).await;
    // SPIRE replaces a certificate after half of its life.
    spire.register(30);
    let config = config(
        &vault,
        &format!("ca_file = {:?}\n", pki.ca),
        &spire.socket,
        "",
        "method = \"cert\"\nrole = \"nodes\"\n",
    );
    let agent = Agent::ready(&(config + QUIET)).await;
    let mut kms = agent.kms().await;
    let before = vault.count("auth/cert/login");
    eventually("a login with the next certificate", async || {
        kms.round_trip().await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let logins = vault.count("auth/cert/login");
        if logins > before { Ok(()) } else { Err(format!("{logins} logins\n{}", agent.log())) }
    })
    .await;
}
