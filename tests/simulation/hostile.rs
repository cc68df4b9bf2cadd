//! A server that writes what it likes into every field that is shown: no output of the agent may be changed by it. A
//! whole agent runs against it: status line, `/status`, `/healthz`, `/metrics`, gRPC messages, and the log.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt as _;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tonic::Request as Call;
use tower::ServiceExt as _;
use zeroize::Zeroizing;

use super::agent::Agent;
use super::node::{Setup, settings};
use super::run::in_simulated_time;
use crate::admin::{self, AdminCommands, Snapshots};
use crate::clock::Deadline;
use crate::key_service::KeyServiceError;
use crate::kms::Connection;
use crate::proto::key_management_service_server::KeyManagementService as _;
use crate::proto::{DecryptRequest, EncryptRequest, StatusRequest};
use crate::telemetry::metrics::Metrics;
use crate::untrusted::tests::{assert_harmless, hostile};
use crate::vault::{Address, Request, Response, Transport};

/// Longest output, in bytes: the server's text may be much longer.
const MAX_OUTPUT: usize = 32 * 1024;

/// Where the server writes its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    /// The type of the key.
    KeyType,
    /// The cluster, the version, and warnings of answers that are good.
    Metadata,
    /// The errors of all answers, with this status.
    Errors(u16),
    /// The errors of all answers but that of the login.
    ErrorsAfterLogin(u16),
    Location,
    /// The token.
    Token,
    /// The times and numbers of answers that are good.
    Numbers(i64),
}

const FIELDS: [Field; 15] = [
    Field::KeyType,
    Field::Metadata,
    Field::Errors(400),
    Field::Errors(403),
    Field::Errors(404),
    Field::Errors(429),
    Field::Errors(500),
    Field::Errors(503),
    Field::ErrorsAfterLogin(400),
    Field::ErrorsAfterLogin(403),
    Field::Location,
    Field::Token,
    Field::Numbers(i64::MAX),
    Field::Numbers(i64::MIN),
    Field::Numbers(253_402_300_800),
];

struct Server {
    field: Field,
    text: String,
}

impl Server {
    fn answer(&self, request: &Request<'_>) -> (u16, Option<String>, Value) {
        let (text, path) = (&self.text, request.path);
        let is_login = path.ends_with("/login");
        match self.field {
            Field::Errors(status) => return (status, None, json!({ "errors": [text] })),
            Field::ErrorsAfterLogin(status) if !is_login && !path.starts_with("sys/health") => {
                return (status, None, json!({ "errors": [text] }));
            }
            Field::Location => return (307, Some(format!("https://{text}.example/v1/{path}")), json!({})),
            _ => {}
        }
        let metadata = if self.field == Field::Metadata { text.as_str() } else { "fine" };
        let (number, count) = match self.field {
            Field::Numbers(number) => (number, number.unsigned_abs()),
            _ => (1_700_000_000, 3600),
        };
        let body: Value =
            request.body.and_then(|body| serde_json::from_slice(body).ok()).unwrap_or(Value::Null);
        let data = match path {
            _ if path.starts_with("sys/health") => {
                let health = json!({
                    "initialized": true, "sealed": false, "standby": false, "version": metadata,
                    "cluster_id": metadata, "server_time_utc": number,
                });
                return (200, None, health);
            }
            _ if is_login || path.ends_with("renew-self") => {
                let token = if self.field == Field::Token { text.as_str() } else { "token" };
                let auth = json!({
                    "client_token": token, "lease_duration": count, "renewable": true, "num_uses": 0,
                });
                return (200, None, json!({ "request_id": metadata, "warnings": [metadata], "auth": auth }));
            }
            _ if path.contains("/keys/") => {
                let key_type = if self.field == Field::KeyType { text.as_str() } else { "aes256-gcm96" };
                json!({
                    "type": key_type, "latest_version": 1, "supports_encryption": true, "keys": { "1": number },
                    "deletion_allowed": true,
                })
            }
            _ if path.contains("/encrypt/") => {
                json!({ "ciphertext": format!("vault:v1:{}", body["plaintext"].as_str().unwrap()) })
            }
            _ if path.contains("/decrypt/") => {
                let ciphertext = body["ciphertext"].as_str().unwrap();
                json!({ "plaintext": ciphertext.strip_prefix("vault:v1:").unwrap_or_default() })
            }
            _ => json!({ "ttl": count, "creation_time": number, "policies": [metadata] }),
        };
        (200, None, json!({ "request_id": metadata, "warnings": [metadata], "data": data }))
    }
}

#[async_trait]
impl Transport for Server {
    async fn send(
        &self,
        _: &Address,
        request: &Request<'_>,
        _: Deadline,
    ) -> Result<Response, KeyServiceError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let (status, location, body) = self.answer(request);
        let body = Zeroizing::new(body.to_string().into_bytes());
        Ok(Response { status, location, retry_after: None, index: None, quota: None, body })
    }
}

/// The lines of the log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What an agent and its callers say within half a minute with this server.
async fn outputs(field: Field, text: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup { addresses: 1, ..Setup::default() };
    let mut settings = settings(&setup, &directory);
    settings.server.allowed_uids = vec![0];
    std::fs::write(directory.path().join("secret-id"), "secret").unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(directory.path().join("secret-id"), mode).unwrap();
    let transport: Arc<dyn Transport> = Arc::new(Server { field, text: text.to_owned() });
    let agent = Agent::start(&settings, Vec::new(), &transport);
    let mut said = Vec::new();
    for pause in [1, 30].map(Duration::from_secs) {
        tokio::time::sleep(pause).await;
        let snapshot = agent.snapshot();
        said.extend([snapshot.line(), snapshot.summary(), snapshot.details()]);
        let channels = (tokio::sync::mpsc::channel(1).0, tokio::sync::mpsc::channel(1).0);
        let router = admin::router(
            Snapshots::fixed(move || snapshot.clone()),
            Arc::new(|| Ok(())),
            Metrics::default(),
            AdminCommands { accept_key: channels.0, reload: channels.1 },
            Arc::new(Vec::new),
            admin::HostNames::new(&[]),
        );
        for path in ["/status", "/healthz", "/healthz?verbose", "/readyz?verbose", "/metrics", "/refused"] {
            let request = hyper::Request::get(path).header("host", "localhost");
            let answer = router.clone().oneshot(request.body(axum::body::Body::empty()).unwrap()).await;
            let body = answer.unwrap().into_body().collect().await.unwrap().to_bytes();
            let body = String::from_utf8(body.to_vec()).unwrap();
            if path == "/status" {
                // What a program sees that decodes it.
                let status: Value = serde_json::from_str(&body).unwrap();
                texts(&status, &mut said);
            }
            said.push(body);
        }
        said.extend(calls(&agent, text).await);
    }
    let _kept = agent.kill().await;
    said
}

/// What callers are told, also one whose request holds the text.
async fn calls(agent: &Agent, text: &str) -> Vec<String> {
    fn of<T>(message: T) -> Call<T> {
        let mut call = Call::new(message);
        call.extensions_mut().insert(Connection::in_process(0));
        call
    }
    let service = &agent.service;
    let uid: String = text.chars().take(60).collect();
    let decrypt = |key_id: &str, annotation: &str| {
        let annotations = [(annotation.to_owned(), b"x".to_vec())].into();
        let ciphertext = STANDARD.encode("x").into_bytes();
        of(DecryptRequest { ciphertext, key_id: key_id.into(), annotations, uid: uid.clone() })
    };
    let encrypt = of(EncryptRequest { plaintext: vec![1; 32], uid: uid.clone() });
    let mut told = Vec::new();
    match service.status(of(StatusRequest {})).await {
        Ok(status) => told.extend([status.get_ref().healthz.clone(), status.get_ref().key_id.clone()]),
        Err(status) => told.push(status.message().to_owned()),
    }
    let refused = [
        service.encrypt(encrypt).await.err(),
        service.decrypt(decrypt(&format!("v1.{uid}"), "a.b")).await.err(),
        service.decrypt(decrypt(&format!("other{uid}"), "a.b")).await.err(),
        service.decrypt(decrypt("v1.x", &format!("{uid}.b"))).await.err(),
    ];
    told.extend(refused.into_iter().flatten().map(|status| status.message().to_owned()));
    // OpenShift's health reporter and preflight cut a text there.
    for text in &told {
        assert!(text.chars().count() <= 1024, "{} characters: {text}", text.chars().count());
    }
    told
}

/// Every text in a JSON value.
fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            found.push(name.clone());
            texts(value, found);
        }),
        _ => {}
    }
}

/// Runs one agent, and looks at everything that it says.
fn judge(seed: u64, field: Field, text: &str) {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let said = tracing::subscriber::with_default(subscriber, || {
        in_simulated_time(seed, async { outputs(field, text).await })
    });
    for output in &said {
        assert_harmless(output);
        assert!(output.len() <= MAX_OUTPUT, "{} bytes of {field:?}", output.len());
    }
    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert_harmless(&log);
    for line in log.lines() {
        assert!(line.len() <= MAX_OUTPUT, "a line of {} bytes for {field:?}", line.len());
    }
    // The text did reach the agent: without that, this test would prove nothing.
    assert!(!log.is_empty() && !said.is_empty());
}

#[test]
fn no_output_is_changed_by_the_words_of_a_server() {
    let mut runner = TestRunner::deterministic();
    for (seed, field) in FIELDS.into_iter().enumerate() {
        for round in 0..2 {
            let text = hostile().new_tree(&mut runner).unwrap().current();
            let text = if round == 0 { text + &"A\n\u{1b}".repeat(10_000) } else { text };
            std::thread::spawn(move || judge(seed as u64, field, &text)).join().unwrap();
        }
    }
}

/// Words that are harmless are shown, so the test above looks at outputs that have them.
#[test]
fn the_words_of_a_server_are_shown() {
    for field in [Field::KeyType, Field::Errors(403), Field::ErrorsAfterLogin(400)] {
        let said = in_simulated_time(1, outputs(field, "words of the server"));
        for part in ["phase", "remedy"] {
            assert!(said.iter().any(|output| output.contains(part)), "{part} of {field:?}");
        }
        assert!(said.iter().any(|output| output.contains("words of the server")), "{field:?}: {said:#?}");
    }
}

/// A login without a usable token is no login: it is tried again, with growing pauses, and nothing is sent with it.
#[test]
fn a_login_without_a_usable_token_is_tried_again() {
    for token in ["", " ", "a b", "é", "a\nb", "\u{0}"] {
        let said = in_simulated_time(1, outputs(Field::Token, token));
        assert!(said.iter().any(|output| output.contains("client_token is empty or damaged")), "{token:?}");
        let held = said.iter().filter(|output| output.contains("\"held\":true")).count();
        assert_eq!(held, 0, "{token:?}");
    }
}
