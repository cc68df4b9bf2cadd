//! The endpoints.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::{mpsc, oneshot};

use super::types::{CommandDone, CommandFailed};
use super::{healthz as health_text, metrics, status as status_view};
use crate::health::Snapshot;
use crate::socket::Stalled;
use crate::telemetry::metrics::Metrics;

/// The outcome of a command: the state after it, or why it failed, in words for an operator.
pub(crate) type CommandResult = Result<CommandDone, CommandFailed>;

/// A command of an administrator; answered with its outcome.
pub(crate) type CommandRequest = oneshot::Sender<CommandResult>;

/// Where commands are sent to.
#[derive(Clone, Debug)]
pub(crate) struct AdminCommands {
    /// To accept a changed key.
    pub accept_key: mpsc::Sender<CommandRequest>,
    /// To read the configuration again.
    pub reload: mpsc::Sender<CommandRequest>,
}

/// How long accepting a key may take.
const ACCEPT: Duration = Duration::from_secs(5);
/// How long a reload may take: the new configuration has to prove itself within 15 s.
const RELOAD: Duration = Duration::from_secs(25);

/// Gives the snapshot of this moment.
pub(crate) type Snapshots = Arc<dyn Fn() -> Arc<Snapshot> + Send + Sync>;

/// Tells whether the accept loop goes round, or for how long it has not.
pub(crate) type Alive = Arc<dyn Fn() -> Result<(), Stalled> + Send + Sync>;

/// Gives the fingerprints of the local KEKs and seeds in memory that may be used now.
pub(crate) type LocalKekFingerprints = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// What is shown.
#[derive(Clone)]
struct Shown {
    snapshot: Snapshots,
    metrics: Metrics,
}

/// What the loopback address serves: nothing that changes anything.
pub(crate) fn public_router(snapshot: Snapshots, alive: Alive, metrics: Metrics) -> Router {
    // `/health` and `/live` are another plugin's; its manifests ask them for liveness, so they must not tell
    // of an outage: the kubelet would restart us.
    let living = ["/livez", "/health", "/live"]
        .into_iter()
        .fold(Router::new(), |router, path| router.route(path, get(livez)))
        .with_state(alive);
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(scrape))
        .with_state(Shown { snapshot, metrics })
        .merge(living)
}

/// What the private socket serves: the same, and what only root may do.
pub(crate) fn router(
    snapshot: Snapshots,
    alive: Alive,
    metrics: Metrics,
    commands: AdminCommands,
    local_keks: LocalKekFingerprints,
) -> Router {
    let private = Router::new()
        .route("/accept-key", post(accept_key))
        .route("/reload", post(reload))
        .with_state(commands);
    let shown = Router::new().route("/refused", get(refused)).with_state(snapshot.clone());
    let keks = Router::new().route("/local-keks", get(fingerprints)).with_state(local_keks);
    public_router(snapshot, alive, metrics).merge(private).merge(shown).merge(keks)
}

/// Whether everything behind the socket works: the key service, our login, the key.
async fn healthz(State(shown): State<Shown>, query: RawQuery, headers: HeaderMap) -> Response {
    let snapshot = (shown.snapshot)();
    let good = health_text::healthy(&snapshot);
    answer((&snapshot, &shown.metrics), "healthz", good, &query, &headers)
}

/// Whether an Encrypt would work now.
async fn readyz(State(shown): State<Shown>, query: RawQuery, headers: HeaderMap) -> Response {
    let snapshot = (shown.snapshot)();
    let good = snapshot.can_wrap();
    answer((&snapshot, &shown.metrics), "readyz", good, &query, &headers)
}

/// Whether the process and its serving loop live. Never looks at the key service: restarting us would
/// not bring it back.
async fn livez(State(alive): State<Alive>) -> Response {
    match alive() {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn scrape(State(shown): State<Shown>) -> Response {
    let text = metrics::render(&(shown.snapshot)(), &shown.metrics);
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
        .into_response()
}

async fn status(State(shown): State<Shown>) -> Response {
    let snapshot = (shown.snapshot)();
    Json(status_view::status(&snapshot, &shown.metrics)).into_response()
}

fn answer(
    (snapshot, metrics): (&Snapshot, &Metrics),
    endpoint: &str,
    good: bool,
    query: &RawQuery,
    headers: &HeaderMap,
) -> Response {
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if accepts.is_some_and(|accepts| accepts.contains("application/json")) {
        return (code, Json(status_view::status(snapshot, metrics))).into_response();
    }
    let wants = |pair: &str| pair == "verbose" || pair.starts_with("verbose=");
    if query.0.as_deref().is_some_and(|query| query.split('&').any(wants)) {
        return (code, health_text::verbose(snapshot, endpoint, good)).into_response();
    }
    if good {
        (code, "ok\n".to_owned()).into_response()
    } else {
        (code, health_text::trouble(snapshot) + "\n").into_response()
    }
}

/// Which credentials were refused, as hashes, so that a check does not send them once more.
async fn refused(State(snapshot): State<Snapshots>) -> Response {
    Json(status_view::refused(&snapshot())).into_response()
}

/// Which local KEKs and seeds are in memory: hashes of what lies in etcd. `verify-etcd` learns from them which
/// objects can be read in an outage.
async fn fingerprints(State(keys): State<LocalKekFingerprints>) -> Response {
    Json(keys()).into_response()
}

async fn accept_key(State(commands): State<AdminCommands>) -> Response {
    run(&commands.accept_key, ACCEPT).await
}

/// Answers when the new configuration is in use, or why it is not.
async fn reload(State(commands): State<AdminCommands>) -> Response {
    run(&commands.reload, RELOAD).await
}

async fn run(commands: &mpsc::Sender<CommandRequest>, timeout: Duration) -> Response {
    let (sender, answer) = oneshot::channel();
    let outcome = async {
        commands.send(sender).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(timeout, outcome).await {
        Ok(Some(Ok(done))) => (StatusCode::OK, Json(done)).into_response(),
        Ok(Some(Err(failed))) => (StatusCode::CONFLICT, Json(failed)).into_response(),
        Ok(None) | Err(_) => {
            let failed = CommandFailed { error: "the agent is stopping or busy; try again".into() };
            (StatusCode::SERVICE_UNAVAILABLE, Json(failed)).into_response()
        }
    }
}
