//! The client against the real router on a unix socket, and against servers that misbehave.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::*;
use crate::admin::api_types::Phase;
use crate::admin::test_snapshot::ready;
use crate::admin::{AdminCommands, CommandRequest, HostNames, router, serve_unix};
use crate::telemetry::metrics::Metrics;

/// How long a test waits for an answer that must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server on the socket of a new runtime directory; it stops when this is dropped.
struct TestServer {
    directory: tempfile::TempDir,
    tasks: JoinSet<()>,
    _stop: watch::Sender<bool>,
}

impl TestServer {
    fn new(router: Router) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = Arc::new(UnixListener::bind(directory.path().join(SOCKET)).unwrap());
        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_unix(listener, router, stopping));
        Self { directory, tasks, _stop: stop }
    }

    /// An agent that is ready, and the commands that it receives.
    fn agent() -> (Self, mpsc::Receiver<CommandRequest>) {
        let (accept_key, _) = mpsc::channel(1);
        let (reload, reloads) = mpsc::channel(1);
        let commands = AdminCommands { accept_key, reload };
        let snapshot = Arc::new(ready());
        let snapshots = crate::admin::Snapshots::fixed(move || snapshot.clone());
        let fingerprints: crate::admin::LocalKekFingerprints = Arc::new(|| vec!["fingerprint".to_owned()]);
        let (live, names) = (Arc::new(|| Ok(())), HostNames::new(&[]));
        let router = router(snapshots, live, Metrics::default(), commands, fingerprints, names);
        (Self::new(router), reloads)
    }

    fn client(&self) -> Client {
        Client::new(self.directory.path(), PATIENCE)
    }
}

#[tokio::test]
async fn every_endpoint_answers_in_the_types_of_the_client() {
    let (server, _reloads) = TestServer::agent();
    let client = server.client();
    let status = client.status().await.unwrap();
    assert_eq!((status.phase, status.primary.key.as_ref().unwrap().version), (Phase::Ready, 2));
    assert_eq!(status.key_id(), status.primary.key.as_ref().map(|key| key.key_id.as_str()));
    assert_eq!(client.status_json().await.unwrap()["phase"], "ready");
    assert!(client.healthz().await.unwrap().ends_with("healthz check passed\n"));
    assert!(client.metrics().await.unwrap().ends_with("# EOF\n"));
    assert!(client.refused_credentials().await.unwrap().is_empty());
    assert!(client.accepted_credentials().await.unwrap().is_empty());
    assert_eq!(client.local_keks().await.unwrap(), HashSet::from(["fingerprint".to_owned()]));
}

#[tokio::test]
async fn a_probe_is_good_or_says_why_not() {
    let failing = || async { (StatusCode::SERVICE_UNAVAILABLE, "the accept loop stands still\n") };
    let router = Router::new().route("/livez", get(failing)).route("/readyz", get(|| async { "ok\n" }));
    let client = TestServer::new(router);
    let client = client.client();
    let why = client.probe(ProbeEndpoint::Live).await.unwrap();
    assert_eq!(why.as_deref(), Some("the accept loop stands still"));
    assert_eq!(client.probe(ProbeEndpoint::Ready).await.unwrap(), None);
}

#[tokio::test]
async fn a_stranger_s_name_gets_the_probes_and_metrics_and_nothing_else() {
    let (server, _reloads) = TestServer::agent();
    let ask = async |head: &str| {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = UnixStream::connect(server.directory.path().join(SOCKET)).await.unwrap();
        stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    for private in [
        "GET /status",
        "GET /refused",
        "GET /accepted",
        "GET /local-keks",
        "POST /reload",
        "POST /accept-key",
    ] {
        let answer = ask(&format!("{private} HTTP/1.1\r\nHost: rebound.example:8690")).await;
        assert!(
            answer.starts_with("HTTP/1.1 421") && answer.contains("server.admin_hosts"),
            "{private}: {answer}"
        );
    }
    for open in ["/healthz", "/healthz?verbose", "/livez", "/readyz", "/metrics"] {
        let answer = ask(&format!("GET {open} HTTP/1.1\r\nHost: rebound.example:8690")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{open}: {answer}");
    }
    // The JSON of a probe is that of /status.
    let json = "GET /healthz HTTP/1.1\r\nAccept: application/json";
    assert!(ask(&format!("{json}\r\nHost: 127.0.0.1:8690")).await.contains("\"phase\":\"ready\""));
    assert!(ask(&format!("{json}\r\nHost: rebound.example")).await.ends_with("\r\n\r\nok\n"));
    assert!(ask("GET /status HTTP/1.0").await.contains(" 200 "));
}

#[tokio::test]
async fn a_reload_answers_with_the_state_or_with_the_reason_of_its_failure() {
    let (server, mut reloads) = TestServer::agent();
    let mut agent = JoinSet::new();
    agent.spawn(async move {
        let failed = CommandFailed { error: "config.toml:3: unknown key".into() };
        reloads.recv().await.unwrap().send(Err(failed)).unwrap();
        let done = CommandDone { phase: Phase::Ready, line: "ready".into() };
        reloads.recv().await.unwrap().send(Ok(done)).unwrap();
    });
    let error = server.client().reload().await.unwrap_err();
    assert!(
        matches!(&error, ClientError::CommandFailed(text) if text.contains("config.toml:3")),
        "{error:?}"
    );
    assert_eq!(server.client().reload().await.unwrap().line, "ready");
}

#[tokio::test]
async fn an_agent_that_is_stopping_is_busy() {
    let (server, reloads) = TestServer::agent();
    drop(reloads);
    let error = server.client().reload().await.unwrap_err();
    assert!(matches!(&error, ClientError::Busy(text) if text.contains("try again")), "{error:?}");
    assert!(!error.is_hang());
}

#[tokio::test]
async fn a_server_that_never_answers_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join(SOCKET)).unwrap();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let _connection = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
    });
    let timeout = Duration::from_millis(50);
    let error = Client::new(directory.path(), timeout).status().await.unwrap_err();
    assert!(error.is_hang(), "{error:?}");
    assert!(matches!(error, ClientError::TimedOut { timeout: limit, .. } if limit == timeout));
}

#[tokio::test]
async fn without_an_agent_there_is_no_connection() {
    let directory = tempfile::tempdir().unwrap();
    let error = Client::new(directory.path(), PATIENCE).status().await.unwrap_err();
    assert!(matches!(error, ClientError::NotConnected { .. }) && !error.is_hang());
}

#[tokio::test]
async fn an_answer_is_read_up_to_its_limit() {
    let text = |bytes: usize| move || async move { "x".repeat(bytes) };
    let router = Router::new()
        .route("/metrics", get(text(MAX_ANSWER)))
        .route("/healthz", get(text(MAX_ANSWER + 1)))
        .route("/status", get(|| async { "{ not JSON" }));
    let server = TestServer::new(router);
    assert_eq!(server.client().metrics().await.unwrap().len(), MAX_ANSWER);
    let error = server.client().healthz().await.unwrap_err();
    assert!(matches!(error, ClientError::Broken(_)), "{error:?}");
    let error = server.client().status().await.unwrap_err();
    assert!(matches!(error, ClientError::NotUnderstood(_)), "{error:?}");
    let error = server.client().local_keks().await.unwrap_err();
    assert!(matches!(error, ClientError::Unexpected(StatusCode::NOT_FOUND)), "{error:?}");
    assert_eq!(server.tasks.len(), 1);
}
