//! The endpoints: their paths, and what each answers.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::api_types::{CommandDone, CommandFailed};
use super::host::{self, HostNames};
use super::timing::{ACCEPT_TIMEOUT, RELOAD_TIMEOUT};
use super::{healthz as health_text, metrics, status as status_answer};
use crate::health::Snapshot;
use crate::socket::Stalled;
use crate::telemetry::metrics::Metrics;

/// The outcome of a command: the state after it, or why it failed, for an operator.
pub(crate) type CommandResult = Result<CommandDone, CommandFailed>;

/// A command of an administrator. The receiver answers it with the outcome.
pub(crate) type CommandRequest = oneshot::Sender<CommandResult>;

/// Where commands are sent.
#[derive(Clone, Debug)]
pub(crate) struct AdminCommands {
    /// Accept a changed key.
    pub accept_key: mpsc::Sender<CommandRequest>,
    /// Read the configuration again.
    pub reload: mpsc::Sender<CommandRequest>,
}

/// Where snapshots come from.
#[derive(Clone)]
pub(crate) struct Snapshots {
    current: Arc<dyn Fn() -> Arc<Snapshot> + Send + Sync>,
    look: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

impl Snapshots {
    /// `current` returns the snapshot of this moment. `look` looks at the key service, unless that answered a moment ago;
    /// when it ends, its result is in the snapshot.
    pub(crate) fn new(
        current: impl Fn() -> Arc<Snapshot> + Send + Sync + 'static,
        look: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        Self { current: Arc::new(current), look: Arc::new(look) }
    }

    /// Without a key service to look at.
    pub(crate) fn fixed(current: impl Fn() -> Arc<Snapshot> + Send + Sync + 'static) -> Self {
        Self::new(current, || Box::pin(async {}))
    }

    fn current(&self) -> Arc<Snapshot> {
        (self.current)()
    }

    async fn fresh(&self) -> Arc<Snapshot> {
        (self.look)().await;
        self.current()
    }
}

/// Checks that the accept loop runs; the error says for how long it has not.
pub(crate) type Liveness = Arc<dyn Fn() -> Result<(), Stalled> + Send + Sync>;

/// Returns the fingerprints of the local KEKs and seeds in memory that may be used now.
pub(crate) type LocalKekFingerprints = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// What the public endpoints render.
#[derive(Clone)]
struct Rendered {
    snapshots: Snapshots,
    metrics: Metrics,
    names: HostNames,
}

/// The endpoints of the admin address. None of them changes anything. The probes and `/metrics` answer under any name,
/// because kubelets and proxies send their own.
pub(crate) fn public_router(
    snapshots: Snapshots,
    liveness: Liveness,
    metrics: Metrics,
    names: HostNames,
) -> Router {
    // `/health` and `/live` are endpoints of another plugin, and its manifests use them as liveness probes. They must
    // not fail in an outage: the kubelet would restart the agent.
    let liveness_routes = ["/livez", "/health", "/live"]
        .into_iter()
        .fold(Router::new(), |router, path| router.route(path, get(livez)))
        .with_state(liveness);
    Router::new()
        .route("/status", get(status))
        .route_layer(from_fn_with_state(names.clone(), host::check))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(Rendered { snapshots, metrics, names })
        .merge(liveness_routes)
}

/// The endpoints of the private socket: the public ones, and those that only root may use.
pub(crate) fn router(
    snapshots: Snapshots,
    liveness: Liveness,
    metrics: Metrics,
    commands: AdminCommands,
    local_keks: LocalKekFingerprints,
    names: HostNames,
) -> Router {
    let private = Router::new()
        .route("/accept-key", post(accept_key))
        .route("/reload", post(reload))
        .with_state(commands);
    let credentials = Router::new().route("/refused", get(refused)).route("/accepted", get(accepted));
    let credentials = credentials.with_state(snapshots.clone());
    let keks = Router::new().route("/local-keks", get(fingerprints)).with_state(local_keks);
    let private = private.merge(credentials).merge(keks);
    let private = private.route_layer(from_fn_with_state(names.clone(), host::check));
    public_router(snapshots, liveness, metrics, names).merge(private)
}

/// Whether everything behind the socket works: the key service, our login, the key. Looks at the key service first, unless
/// it answered a moment ago.
async fn healthz(State(rendered): State<Rendered>, query: RawQuery, headers: HeaderMap) -> Response {
    let snapshot = rendered.snapshots.fresh().await;
    let good = health_text::is_healthy(&snapshot);
    answer(&rendered, &snapshot, ("healthz", good), &query, &headers)
}

/// Whether an Encrypt would work now.
async fn readyz(State(rendered): State<Rendered>, query: RawQuery, headers: HeaderMap) -> Response {
    let snapshot = rendered.snapshots.current();
    let good = snapshot.can_wrap();
    answer(&rendered, &snapshot, ("readyz", good), &query, &headers)
}

/// Whether the process and its accept loop run. Does not check the key service: a restart of the agent would not
/// repair it.
async fn livez(State(liveness): State<Liveness>) -> Response {
    match liveness() {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn scrape(State(rendered): State<Rendered>) -> Response {
    let text = metrics::render(&rendered.snapshots.current(), &rendered.metrics);
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
        .into_response()
}

async fn status(State(rendered): State<Rendered>) -> Response {
    let snapshot = rendered.snapshots.current();
    Json(status_answer::status(&snapshot, &rendered.metrics)).into_response()
}

fn answer(
    rendered: &Rendered,
    snapshot: &Snapshot,
    (endpoint, good): (&str, bool),
    query: &RawQuery,
    headers: &HeaderMap,
) -> Response {
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    // This is what /status answers, so it is not for every name.
    if accepts.is_some_and(|accepts| accepts.contains("application/json")) && rendered.names.accept(headers) {
        return (code, Json(status_answer::status(snapshot, &rendered.metrics))).into_response();
    }
    let wants = |pair: &str| pair == "verbose" || pair.starts_with("verbose=");
    if query.0.as_deref().is_some_and(|query| query.split('&').any(wants)) {
        return (code, health_text::verbose(snapshot, endpoint, good)).into_response();
    }
    if good {
        (code, "ok\n".to_owned()).into_response()
    } else {
        (code, health_text::problem(snapshot) + "\n").into_response()
    }
}

/// Which credentials were refused, as hashes, so that `kms-plugin check` does not send them again.
async fn refused(State(snapshots): State<Snapshots>) -> Response {
    Json(status_answer::refused(&snapshots.current())).into_response()
}

/// Which credentials the agent is logged in with, as hashes, so that `kms-plugin check` need not log in.
async fn accepted(State(snapshots): State<Snapshots>) -> Response {
    Json(status_answer::accepted(&snapshots.current())).into_response()
}

/// Which local KEKs and seeds are in memory, as hashes of their wrapped form in etcd. From them, `verify-etcd` finds
/// the objects that can be read in an outage.
async fn fingerprints(State(keys): State<LocalKekFingerprints>) -> Response {
    Json(keys()).into_response()
}

async fn accept_key(State(commands): State<AdminCommands>) -> Response {
    run(&commands.accept_key, ACCEPT_TIMEOUT).await
}

/// Answers when the new configuration is in use, or why it is not.
async fn reload(State(commands): State<AdminCommands>) -> Response {
    run(&commands.reload, RELOAD_TIMEOUT).await
}

/// Sends a command and waits for its outcome.
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
