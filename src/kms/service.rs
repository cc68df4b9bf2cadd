//! The gRPC service: who may call, how many calls at once, and what is counted and logged. Answers Status from
//! memory; `encrypt` and `decrypt` have the other two methods.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, async_trait};

use super::connection::Connection;
use super::in_flight::{InFlight, InFlightCall};
use super::view::View;
use super::{deadline, error_codes, limits};
use crate::clock::Deadline;
use crate::display;
use crate::health::{Announce, Hint};
use crate::proto::key_management_service_server::KeyManagementService;
use crate::proto::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::LogThrottle;
use crate::untrusted;

/// Largest message that is read, in bytes: what the contract allows (see `limits`), and some room.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024;
/// Longest text of Status, in characters: OpenShift's health reporter cuts it there.
const MAX_HEALTHZ: usize = 1024;
/// How many different failures are throttled in the log at the same time.
const MAX_THROTTLED: usize = 64;

/// The service, shared by all connections.
pub(crate) struct KmsService {
    pub(super) views: watch::Receiver<View>,
    allowed_uids: Vec<u32>,
    in_flight: InFlight,
    call_timeout: Duration,
    failures: LogThrottle,
    metrics: Metrics,
}

impl KmsService {
    /// A service that calls the key services of `views`, and answers Status with their snapshot.
    pub(crate) fn new(
        views: watch::Receiver<View>,
        server: &crate::config::server::Server,
        metrics: Metrics,
    ) -> Self {
        Self {
            views,
            allowed_uids: server.allowed_uids.clone(),
            in_flight: InFlight::new(server.max_in_flight),
            call_timeout: server.call_timeout,
            failures: LogThrottle::new(MAX_THROTTLED),
            metrics,
        }
    }

    /// Whether no Encrypt or Decrypt is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_idle()
    }

    /// Completes when no Encrypt or Decrypt is in flight. New ones may begin at any time.
    pub(super) async fn idle(&self) {
        self.in_flight.idle().await;
    }

    pub(super) fn current_view(&self) -> View {
        self.views.borrow().clone()
    }

    /// The connection of a call whose peer may call; an error for all other peers.
    pub(super) fn authorize<T>(&self, request: &Request<T>) -> Result<Connection, Status> {
        let connection = request.extensions().get::<Connection>();
        self.check_peer(connection).cloned()
    }

    /// Refuses a peer that may not call, before anything of its request is read. `method` is from the path. A refusal is
    /// counted and logged like that of a call.
    pub(super) fn admit_peer(&self, connection: Option<&Connection>, method: &str) -> Result<(), Status> {
        let (method, operation) = match method {
            "Status" => ("Status", "status"),
            "Encrypt" => ("Encrypt", "encrypt"),
            "Decrypt" => ("Decrypt", "decrypt"),
            _ => ("Other", "a call"),
        };
        let refused = self.check_peer(connection).map(drop);
        if let Err(status) = &refused {
            self.count(method, Instant::now(), &refused);
            let _logged = self.log_failure(operation, "", "", status.clone());
        }
        refused
    }

    /// The connection, if its peer may call.
    fn check_peer<'a>(&self, connection: Option<&'a Connection>) -> Result<&'a Connection, Status> {
        let Some(connection) = connection else {
            return Err(Status::internal("the connection is not known; report this as a bug"));
        };
        match connection.uid {
            Some(uid) if self.allowed_uids.contains(&uid) => Ok(connection),
            uid => {
                let shown = uid.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string());
                Err(error_codes::with_remedy(
                    Code::PermissionDenied,
                    &format!("user id {shown} may not call this socket"),
                    "run the caller as root, or add its uid to server.allowed_uids",
                ))
            }
        }
    }

    pub(super) fn deadline<T>(&self, request: &Request<T>) -> Deadline {
        deadline::of_request(request, self.call_timeout)
    }

    /// Answers Status from memory, and notes on the connection what was announced.
    fn answer_status(&self, request: &Request<StatusRequest>) -> Result<StatusResponse, Status> {
        let connection = self.authorize(request)?;
        let View { snapshot, .. } = self.current_view();
        let Some(key) = &snapshot.primary.key else { return Err(error_codes::not_started(&snapshot)) };
        let healthz = match (snapshot.announce, &snapshot.reason) {
            (Announce::Unknown, _) => return Err(error_codes::not_started(&snapshot)),
            (Announce::Refused, Some(reason)) => {
                return Err(error_codes::of_reason(Code::FailedPrecondition, reason));
            }
            (Announce::Unhealthy, _) => display::fit(&snapshot.details(), MAX_HEALTHZ),
            (Announce::Ok | Announce::Refused, _) => "ok".to_owned(),
        };
        connection.set_announced(key.version, &key.key_id);
        // The servers are behind no more: whoever reads the data again sees what it is.
        if self.metrics.unreadable() > 0 {
            let keys = snapshot.services().filter_map(|state| state.key.as_ref());
            self.metrics.forget_unreadable(keys.map(|key| key.version).min().unwrap_or_default());
        }
        let (version, key_id) = ("v2".to_owned(), key.key_id.to_string());
        Ok(StatusResponse { version, healthz, key_id })
    }

    /// Counts a call as in flight until the value is dropped; an error at the limit.
    pub(super) fn begin_call(&self) -> Result<InFlightCall<'_>, Status> {
        self.in_flight.begin().ok_or_else(|| {
            error_codes::with_remedy(
                Code::ResourceExhausted,
                &format!("{} calls are in flight, the limit", self.in_flight.limit()),
                "find out why the key service is slow; server.max_in_flight is the limit",
            )
        })
    }

    fn count<T>(&self, method: &'static str, started: Instant, answer: &Result<T, Status>) {
        let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
        self.metrics.call(method, error_codes::label(code), started.elapsed());
    }

    /// Has the key service looked at soon when the result of a call does not fit its state. The next look by the
    /// interval may be far away.
    fn hint<T>(&self, answer: &Result<T, Status>) {
        let view = self.current_view();
        let works = view.snapshot.can_wrap();
        let local = view.services.local_kek_policy.is_some();
        let hint = match answer.as_ref().map_err(|status| (status.code(), error_codes::newer_version(status)))
        {
            // With local KEKs, a call may have worked without the key service; not while that refuses.
            Ok(_) if !works && (!local || view.snapshot.primary.wipe_at.is_some()) => Hint::Worked,
            Err((Code::PermissionDenied | Code::FailedPrecondition, _) | (_, Some(_))) => Hint::Refused,
            Err((Code::Unavailable | Code::DeadlineExceeded, _)) => Hint::NoAnswer,
            // Whatever the answer, the state that is known may be over.
            Err(_) if !works => Hint::NoAnswer,
            _ => return,
        };
        view.services.refresh.hint(hint);
    }

    /// The hint of a call that has no answer yet.
    fn begin_hint(&self) -> PendingHint<'_> {
        PendingHint { service: self, answered: false }
    }

    /// Logs a failed call: the first of its kind at once, repetitions folded into one line.
    fn log_failure(&self, operation: &'static str, uid: &str, key_id: &str, status: Status) -> Status {
        let label = format!("{operation} {:?}", status.code());
        if let Some(times) = self.failures.admit(&label) {
            let (text, remedy) = error_codes::split_remedy(status.message());
            tracing::warn!(
                KMS_OPERATION = operation,
                KMS_UID = uid,
                KMS_KEY_ID = key_id,
                KMS_REMEDY = remedy,
                times,
                "{operation} failed ({:?}): {text}",
                status.code()
            );
        }
        status
    }
}

/// Gives a hint when a call ends. A caller that goes away at its deadline drops the call before there is an answer: the
/// key service gave none in time.
struct PendingHint<'a> {
    service: &'a KmsService,
    answered: bool,
}

impl PendingHint<'_> {
    fn answered<T>(mut self, answer: &Result<T, Status>) {
        self.answered = true;
        self.service.hint(answer);
    }
}

impl Drop for PendingHint<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.service.hint::<()>(&Err(Status::deadline_exceeded("")));
        }
    }
}

#[async_trait]
impl KeyManagementService for Arc<KmsService> {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let started = Instant::now();
        let answer = self.answer_status(&request);
        self.count("Status", started, &answer);
        answer.map(Response::new)
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let (started, _under_way) = (Instant::now(), self.metrics.under_way());
        let uid = untrusted::text(&request.get_ref().uid);
        let hint = self.begin_hint();
        let wrapped = self.wrap(request).await;
        hint.answered(&wrapped);
        self.count("Encrypt", started, &wrapped);
        wrapped.map(Response::new).map_err(|status| self.log_failure("encrypt", &uid, "", status))
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let (started, _under_way) = (Instant::now(), self.metrics.under_way());
        let uid = untrusted::text(&request.get_ref().uid);
        let key_id = limits::shown(&request.get_ref().key_id);
        let hint = self.begin_hint();
        let unwrapped = self.unwrap(request).await;
        hint.answered(&unwrapped);
        self.count("Decrypt", started, &unwrapped);
        match &unwrapped {
            Ok(_) => self.metrics.readable(&key_id, true),
            Err(status) if status.code() == Code::FailedPrecondition => self.metrics.readable(&key_id, false),
            Err(status) => {
                if let Some(version) = error_codes::newer_version(status) {
                    self.metrics.unreadable_yet(&key_id, version);
                }
            }
        }
        unwrapped.map(Response::new).map_err(|status| self.log_failure("decrypt", &uid, &key_id, status))
    }
}
