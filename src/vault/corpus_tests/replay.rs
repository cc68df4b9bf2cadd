//! Plays one answer from a socket to the code that sends such a call.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::Answer;
use crate::clock::Deadline;
use crate::config::endpoint::Endpoint;
use crate::config::secret::{RoleId, SecretSource};
use crate::config::vault::{Auth, Method as AuthMethod, Vault};
use crate::key_service::{ErrorKind, KeyService as _, KeyServiceError};
use crate::secret::{Fingerprint, Secret};
use crate::telemetry::metrics::Metrics;
use crate::vault::client::Client;
use crate::vault::login::{Credentials, LoginMethod};
use crate::vault::session::Session;
use crate::vault::token::{Lease, Token};
use crate::vault::transport::Http;
use crate::vault::{Budget, Inspector, TransitService};

/// For all calls of one answer. None waits for it: each answer comes at once.
const PATIENCE: Duration = Duration::from_secs(20);
/// A lookup of the wrapping token of a secret-id, and what it wraps, in one.
const WRAPPED: &str = r#"{"data":{"creation_path":"auth/approle/role/kms/secret-id","secret_id":"secret"}}"#;

/// The kind of the error that the code makes of an answer; `None` for success.
type Given = Option<ErrorKind>;

fn kind<T>(result: Result<T, KeyServiceError>) -> Given {
    result.err().map(|error| error.kind())
}

/// Calls whose refusal is no error to their caller: it goes on without what was asked for.
fn kind_of_optional<T>(result: Result<Option<T>, KeyServiceError>) -> Given {
    match result {
        Ok(None) => Some(ErrorKind::Denied),
        other => kind(other),
    }
}

/// Files of a wrapped secret-id.
pub(super) struct Files {
    wrapped: PathBuf,
}

impl Files {
    pub(super) fn new(directory: &Path) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let wrapped = directory.join("secret-id");
        fs::write(&wrapped, "s.AAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
        fs::set_permissions(&wrapped, fs::Permissions::from_mode(0o600)).unwrap();
        Self { wrapped }
    }
}

/// Plays the answer to the code that sends such a call.
pub(super) async fn replay(answer: &Answer, files: &Files) -> Given {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(serve(listener, answer.clone()));
    let given = call(answer, &address, files).await;
    server.abort();
    given
}

async fn call(answer: &Answer, address: &str, files: &Files) -> Given {
    let vault = vault(address, files);
    let deadline = Deadline::after(PATIENCE);
    let service = || {
        let service =
            TransitService::new(&vault, Metrics::default(), Arc::new(Http), Budget::unlimited()).unwrap();
        service.session.hold(token());
        service
    };
    let session = |path: &str| {
        let client =
            Arc::new(Client::new(&vault, Metrics::default(), Arc::new(Http), Budget::unlimited()).unwrap());
        Session::new(client, Box::new(Fixed(path.to_owned())), String::new(), String::new())
    };
    match answer.request.call.as_str() {
        "encrypt" => {
            // The answer has a ciphertext of this version, where it has one.
            let version = if answer.body.contains("vault:v3:") { 3 } else { 1 };
            kind(service().wrap(version, &[0; 32], &[], deadline).await)
        }
        "decrypt" => kind(service().unwrap(b"vault:v1:AAAA", &[], deadline).await),
        "read_key" => kind(service().describe(0, deadline).await),
        "health" | "plain_health" => kind(service().reachable(deadline).await),
        // More answers would show why it is denied.
        "login" => match kind(session(&answer.request.path).log_in_once(deadline).await) {
            Some(ErrorKind::LoginDenied) => Some(ErrorKind::Denied),
            other => other,
        },
        "lookup" => {
            let session = session("");
            match kind_of_optional(session.lookup(&token(), deadline).await) {
                Some(ErrorKind::LoginDenied) => Some(ErrorKind::Denied),
                other => other,
            }
        }
        "renew" => renew(&session("")).await,
        "capabilities" => {
            let inspector = Inspector::new(&vault).unwrap();
            inspector.key_service().session.hold(token());
            kind_of_optional(inspector.capabilities(&["transit/encrypt/kms-key"], deadline).await)
        }
        "wrapping_lookup" | "unwrap" => {
            let session = service().session;
            kind(session.credentials(deadline).await)
        }
        other => panic!("{}: {other} is not a call of the agent", answer.name),
    }
}

/// A refusal means that the policy may deny renewals.
async fn renew(session: &Session) -> Option<ErrorKind> {
    match session.renew(&token()).await {
        Ok(true) => None,
        Ok(false) => Some(ErrorKind::Denied),
        Err(error) => kind::<()>(Err(error)),
    }
}

/// Answers every request on every connection with the answer.
async fn serve(listener: TcpListener, answer: Answer) {
    let mut headers = format!("HTTP/1.1 {} Recorded\r\nconnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        headers.push_str(&format!("{name}: {value}\r\n"));
    }
    let with_length = |body: &str| format!("content-length: {}\r\n\r\n{body}", body.len());
    let recorded = match answer.status {
        // These have no body.
        204 | 304 => format!("{headers}\r\n"),
        _ => headers + &with_length(&answer.body),
    };
    let other = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{}", with_length(WRAPPED));
    while let Ok((mut stream, _)) = listener.accept().await {
        let request = read_request(&mut stream).await;
        // Of the two requests of an unwrapping, one is answered as recorded.
        let is_other = match answer.request.call.as_str() {
            "unwrap" => request.contains(" /v1/sys/wrapping/lookup "),
            "wrapping_lookup" => request.contains(" /v1/sys/wrapping/unwrap "),
            _ => false,
        };
        let text = if is_other { &other } else { &recorded };
        let _gone = stream.write_all(text.as_bytes()).await;
    }
}

/// The whole request: an answer to a part of it would be lost.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    loop {
        let read = stream.read_buf(&mut text).await.unwrap_or(0);
        let request = String::from_utf8_lossy(&text).into_owned();
        let body = request.split_once("\r\n\r\n").map(|(head, body)| {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            body.len() >= length.map_or(0, |length| length.parse().unwrap())
        });
        if read == 0 || body == Some(true) {
            return request;
        }
    }
}

fn token() -> Token {
    let now = Instant::now();
    Token {
        secret: Some(Secret::new("s.AAAAAAAAAAAAAAAAAAAAAAAA".into())),
        generation: 1,
        born: now,
        lease: Lease::new(now, Some(Duration::from_secs(60)), true),
        num_uses: 0,
    }
}

fn vault(address: &str, files: &Files) -> Vault {
    let method = AuthMethod::AppRole {
        role_id: RoleId::Literal("role".into()),
        secret_id: Some(SecretSource::file(&files.wrapped, false)),
        wrapped: true,
    };
    let auth = Auth { mount: "approle".into(), method };
    Vault::example([Endpoint::parse(address, true).unwrap()], auth)
}

/// A login at the path of the corpus: all methods send one request, and read its answer in the same way.
struct Fixed(String);

#[async_trait]
impl LoginMethod for Fixed {
    fn name(&self) -> &'static str {
        "approle"
    }

    async fn fingerprint(&self, _: &Client) -> Result<Fingerprint, KeyServiceError> {
        Ok(Fingerprint::default())
    }

    async fn credentials(&self, _: &Client, _: Deadline) -> Result<Credentials, KeyServiceError> {
        Ok(Credentials::Login { path: self.0.clone(), body: Zeroizing::new(b"{}".to_vec()) })
    }

    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn remedy(&self) -> String {
        "write a new secret-id".into()
    }
}
