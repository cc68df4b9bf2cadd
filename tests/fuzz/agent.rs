//! A whole agent without sockets, with keys in a file: what its callers send.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a target that finds something panics

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::sync::{mpsc, watch};

use super::core::{Core, PreparedCore};
use crate::admin::{self, AdminCommands, HostNames, Snapshots};
use crate::clock::Deadline;
use crate::config::Settings;
use crate::kms::{self, KmsService};
use crate::local_kek::Cache;
use crate::telemetry::metrics::Metrics;
use crate::vault::{Http, Transport};

/// The only user who may call.
const ALLOWED: u32 = 0;
/// Enough for a slow machine.
const START: Duration = Duration::from_secs(60);

/// How tonic's words begin for what is no gRPC, or no protobuf.
const DAMAGED: [&str; 4] = [
    "protocol%20error",
    "failed%20to%20decode",
    "Unexpected%20EOF%20decoding",
    "Missing%20request%20message",
];

/// An agent that is ready.
struct Running {
    runtime: tokio::runtime::Runtime,
    service: Arc<KmsService>,
    admin: Router,
    _core: Core,
    _directory: tempfile::TempDir,
}

impl Running {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let keyring = directory.path().join("keyring.json");
        let address = ([127, 0, 0, 1], 0).into();
        let mut settings = Settings::development(directory.path(), keyring, address);
        settings.server.allowed_uids = vec![ALLOWED];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (metrics, transport): (_, Arc<dyn Transport>) = (Metrics::default(), Arc::new(Http));
        let (service, admin, core) = runtime.block_on(async {
            let keks = Arc::new(Cache::open(Vec::new(), None, None));
            let prepared = PreparedCore::new(&settings, &metrics, keks, &transport).expect("a core");
            let views = Arc::new(watch::channel(prepared.view()).0);
            let core = prepared.start(views.clone());
            let ready = tokio::time::timeout_at(Deadline::after(START).instant(), core.verified());
            ready.await.expect("the agent becomes ready");
            let admin = router(views.subscribe(), metrics.clone());
            (Arc::new(KmsService::new(views.subscribe(), &settings.server, metrics)), admin, core)
        });
        Self { runtime, service, admin, _core: core, _directory: directory }
    }
}

/// The private endpoints, without an agent that runs commands.
fn router(views: watch::Receiver<kms::View>, metrics: Metrics) -> Router {
    let commands = AdminCommands { accept_key: mpsc::channel(1).0, reload: mpsc::channel(1).0 };
    admin::router(
        Snapshots::fixed(move || views.borrow().snapshot.clone()),
        Arc::new(|| Ok(())),
        metrics,
        commands,
        Arc::new(Vec::new),
        HostNames::new(&[]),
    )
}

fn with_agent<T>(run: impl FnOnce(&Running) -> T) -> T {
    thread_local!(static AGENT: Running = Running::start());
    AGENT.with(run)
}

/// A gRPC call: a byte that chooses method and user, then the body. What one user may do, another may not; what was
/// refused has words without control characters.
pub(crate) fn grpc_call(input: &[u8]) {
    let Some((choice, body)) = input.split_first() else { return };
    let method = ["Status", "Encrypt", "Decrypt", "Other"][usize::from(choice % 4)];
    let uid = ALLOWED + u32::from(choice / 4 % 2);
    let (bytes, trailers) =
        with_agent(|agent| agent.runtime.block_on(kms::fuzz::call(&agent.service, uid, method, body)));
    let code = trailers.get("grpc-status").expect("a status").to_str().expect("a number");
    let message = trailers.get("grpc-message").map_or("", |message| message.to_str().expect("a text"));
    assert!(message.len() <= 4096, "{message}");
    for hidden in ["%0A", "%0D", "%1B", "%00", "%E2%80%AE"] {
        assert!(!message.contains(hidden), "{message}");
    }
    assert_eq!(uid != ALLOWED, code == "7", "user {uid}, code {code}: {message}");
    assert_eq!(code == "0", !bytes.is_empty(), "code {code}");
    let is_damaged = DAMAGED.iter().any(|words| message.starts_with(words));
    assert!(code != "13" || is_damaged, "an internal error: {message}");
}

/// Bytes on a connection to the admin API. What is said about the agent is said only under its own names.
pub(crate) fn admin_request(input: &[u8]) {
    let answer = with_agent(|agent| agent.runtime.block_on(admin::fuzz::exchange(&agent.admin, input)));
    assert!(answer.len() <= 64 * 1024, "{} bytes", answer.len());
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{:?}", String::from_utf8_lossy(&answer));
    let names =
        |text: &[u8], word: &[u8]| text.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
    if names(input, b"host: attacker.example\r\n") {
        assert!(!names(&answer, b"\"key_id\""), "{:?}", String::from_utf8_lossy(&answer));
    }
}
