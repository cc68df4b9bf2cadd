//! Status, Encrypt and Decrypt. Status is answered from memory; the other two make one call each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tonic::{Code, Request, Response, Status, async_trait};
use zeroize::Zeroizing;

use super::connection::Connection;
use super::routing::View;
use super::{limits, local_kek, status};
use crate::clock::Deadline;
use crate::health::{Announce, Phase, ReasonKind, Snapshot};
use crate::key_service::{ErrorKind, KeyVersion, KnownKey};
use crate::proto::key_management_service_server::KeyManagementService;
use crate::proto::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::throttle::LogThrottle;

/// Largest message that is read, in bytes: what the contract allows, and some room.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024;
/// The part of a caller's time that is kept for the way back.
const MARGIN: Duration = Duration::from_millis(50);
/// With a local KEK, the time for a look at a key that was not read yet.
const LOOK: Duration = Duration::from_secs(1);
/// How many different failures are folded at a time.
const FOLDED: usize = 64;

/// The service, shared by all connections.
pub struct KmsService {
    pub(super) views: watch::Receiver<View>,
    allowed_uids: Vec<u32>,
    in_flight: Semaphore,
    max_in_flight: usize,
    longest: Duration,
    failures: LogThrottle,
    metrics: Metrics,
}

impl KmsService {
    /// A service that renders and calls what `views` shows.
    pub fn new(
        views: watch::Receiver<View>,
        server: &crate::config::server::Server,
        metrics: Metrics,
    ) -> Self {
        Self {
            views,
            allowed_uids: server.allowed_uids.clone(),
            in_flight: Semaphore::new(server.max_in_flight),
            max_in_flight: server.max_in_flight,
            longest: server.call_timeout,
            failures: LogThrottle::new(FOLDED),
            metrics,
        }
    }

    /// Whether no Encrypt or Decrypt is under way.
    pub fn is_idle(&self) -> bool {
        self.in_flight.available_permits() == self.max_in_flight
    }

    pub(super) fn now(&self) -> View {
        self.views.borrow().clone()
    }

    /// The connection of a call, when its peer may call.
    pub(super) fn peer<T>(&self, request: &Request<T>) -> Result<Connection, Status> {
        let connection = request.extensions().get::<Connection>().cloned();
        let Some(connection) = connection else {
            return Err(Status::internal("the connection is not known; report this as a bug"));
        };
        match connection.uid {
            Some(uid) if self.allowed_uids.contains(&uid) => Ok(connection),
            uid => {
                let shown = uid.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string());
                Err(status::told(
                    Code::PermissionDenied,
                    &format!("user id {shown} may not call this socket"),
                    "run the caller as root, or add its uid to server.allowed_uids",
                ))
            }
        }
    }

    /// The caller's deadline, less what the answer needs; never longer than the configured limit.
    pub(super) fn deadline<T>(&self, request: &Request<T>) -> Deadline {
        let header = request.metadata().get("grpc-timeout").and_then(|value| value.to_str().ok());
        let timeout = header.and_then(parse_timeout).unwrap_or(self.longest).min(self.longest);
        Deadline::after(timeout.saturating_sub(MARGIN.min(timeout / 10)))
    }

    /// Status, from memory.
    fn announce(&self, request: &Request<StatusRequest>) -> Result<StatusResponse, Status> {
        let connection = self.peer(request)?;
        let View { snapshot, .. } = self.now();
        let Some(key) = &snapshot.primary.key else { return Err(not_started(&snapshot)) };
        let healthz = match (snapshot.announce, &snapshot.reason) {
            (Announce::Unknown, _) => return Err(not_started(&snapshot)),
            (Announce::Refused, Some(reason)) => {
                return Err(status::of_reason(Code::FailedPrecondition, reason));
            }
            (Announce::Unhealthy, _) => snapshot.line(),
            (Announce::Ok | Announce::Refused, _) => "ok".to_owned(),
        };
        connection.announce(&key.key_id);
        let (version, key_id) = ("v2".to_owned(), key.key_id.to_string());
        Ok(StatusResponse { version, healthz, key_id })
    }

    async fn wrap(&self, request: Request<EncryptRequest>) -> Result<EncryptResponse, Status> {
        let connection = self.peer(&request)?;
        let deadline = self.deadline(&request);
        let mut message = request.into_inner();
        let plaintext = Zeroizing::new(std::mem::take(&mut message.plaintext));
        limits::encrypt(&plaintext, &message.uid)?;
        let _permit = self.permit()?;
        let mut view = self.now();
        let local = view.link.policy.is_some();
        if view.snapshot.unread && view.snapshot.primary.key.is_some() && !(local && is_away(&view.snapshot))
        {
            // Another key may be there since an earlier run or an outage: look before anything is written.
            let look = if local { deadline.at_most(LOOK) } else { deadline };
            let _read = view.link.refresh.now(look).await;
            view = self.now();
        }
        let snapshot = &view.snapshot;
        // A local KEK was wrapped while the key was known: it needs nobody who answers.
        let known = |_: &&KnownKey| !snapshot.unread || (local && snapshot.announce == Announce::Ok);
        let Some(key) = snapshot.primary.key.as_ref().filter(known) else {
            return Err(not_started(snapshot));
        };
        if let Some(reason) = snapshot.reason.as_ref().filter(|reason| reason.kind.forbids_wrapping()) {
            return Err(status::of_reason(Code::FailedPrecondition, reason));
        }
        let (version, key_id) = pinned(key, &connection);
        let created = key.versions.get(&version).copied();
        let key_version = KeyVersion { scope: &key.scope, version, created, key_id: &key_id };
        let wrapped = match local {
            true => local_kek::wrap(&view, key_version, &plaintext, deadline).await,
            false => {
                let wrapped = view.link.routes.primary.wrap(version, &plaintext, &[], deadline).await;
                wrapped.map(|ciphertext| (ciphertext, HashMap::new()))
            }
        };
        let (ciphertext, annotations) = match wrapped {
            Ok(answer) => answer,
            Err(error) => {
                if matches!(error.kind(), ErrorKind::VersionAhead | ErrorKind::VersionGone) {
                    // Rolled back, a lagging replica, or a raised minimum: a read of the key tells.
                    let _seen = view.link.refresh.now(deadline).await;
                }
                return Err(local_kek::told(snapshot, &error));
            }
        };
        limits::ciphertext(&ciphertext).map_err(Status::invalid_argument)?;
        tracing::debug!(
            KMS_OPERATION = "encrypt",
            KMS_UID = message.uid,
            KMS_KEY_ID = &*key_id,
            "wrapped a DEK seed"
        );
        Ok(EncryptResponse { ciphertext, key_id: key_id.to_string(), annotations })
    }

    pub(super) fn permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Status> {
        self.in_flight.try_acquire().map_err(|_| {
            status::told(
                Code::ResourceExhausted,
                &format!("{} calls are under way, the limit", self.max_in_flight),
                "look why the key service is slow; server.max_in_flight is the limit",
            )
        })
    }

    fn count<T>(&self, method: &'static str, started: Instant, answer: &Result<T, Status>) {
        let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
        self.metrics.call(method, status::name(code), started.elapsed());
    }

    /// A call that is refused while all is well, or works while it should not, is worth a look at once: the
    /// next one by the interval may be far away.
    fn compare<T>(&self, answer: &Result<T, Status>) {
        let view = self.now();
        let surprising = match answer.as_ref().map_err(Status::code) {
            Ok(_) => view.snapshot.is_refused(),
            Err(Code::PermissionDenied) => view.snapshot.phase == Phase::Ready,
            Err(_) => false,
        };
        if surprising {
            view.link.refresh.recheck();
        }
    }

    /// Logs a failed call: the first of its kind at once, repetitions folded.
    fn failed(&self, operation: &'static str, uid: &str, key_id: &str, status: Status) -> Status {
        let label = format!("{operation} {:?}", status.code());
        if let Some(times) = self.failures.admit(&label) {
            tracing::warn!(
                KMS_OPERATION = operation,
                KMS_UID = uid,
                KMS_KEY_ID = key_id,
                times,
                "{operation} failed ({:?}): {}",
                status.code(),
                status.message()
            );
        }
        status
    }
}

/// The version and id to wrap with: what Status announced on this connection, while it may still wrap.
fn pinned(key: &KnownKey, connection: &Connection) -> (u32, Arc<str>) {
    let announced = connection.announced().and_then(|key_id| {
        let version = *key.ids.get(&*key_id)?;
        (version >= key.min_encryption && version >= key.min_decryption).then_some((version, key_id))
    });
    announced.unwrap_or_else(|| (key.version, key.key_id.clone()))
}

/// Whether the key service was found to be away: asking it again would only cost the caller's time.
fn is_away(snapshot: &Snapshot) -> bool {
    let kind = snapshot.reason.as_ref().map(|reason| reason.kind);
    kind.is_some_and(|kind| kind.is_outage() && kind != ReasonKind::NoContact)
}

fn not_started(snapshot: &Snapshot) -> Status {
    match &snapshot.reason {
        Some(reason) => {
            let text = format!("{}{}", reason.text, snapshot.wiped());
            status::told(Code::Unavailable, &text, &reason.remedy)
        }
        None => status::told(
            Code::Unavailable,
            "the key was not read yet, since the start or since an outage",
            "wait a moment; if it stays, look at /healthz",
        ),
    }
}

/// `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2).
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[async_trait]
impl KeyManagementService for Arc<KmsService> {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let started = Instant::now();
        let answer = self.announce(&request);
        self.count("Status", started, &answer);
        answer.map(Response::new)
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let (started, _under_way) = (Instant::now(), self.metrics.under_way());
        let uid = request.get_ref().uid.clone();
        let wrapped = self.wrap(request).await;
        self.compare(&wrapped);
        self.count("Encrypt", started, &wrapped);
        wrapped.map(Response::new).map_err(|status| self.failed("encrypt", &uid, "", status))
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let (started, _under_way) = (Instant::now(), self.metrics.under_way());
        let uid = request.get_ref().uid.clone();
        let key_id: String = request.get_ref().key_id.chars().take(64).collect();
        let unwrapped = self.unwrap(request).await;
        self.compare(&unwrapped);
        self.count("Decrypt", started, &unwrapped);
        match unwrapped.as_ref().map_err(Status::code) {
            Ok(_) => self.metrics.readable(&key_id, true),
            Err(Code::FailedPrecondition) => self.metrics.readable(&key_id, false),
            Err(_) => {}
        }
        unwrapped.map(Response::new).map_err(|status| self.failed("decrypt", &uid, &key_id, status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_in_every_unit_and_nothing_else() {
        assert_eq!(parse_timeout("3S"), Some(Duration::from_secs(3)));
        assert_eq!(parse_timeout("2999m"), Some(Duration::from_millis(2999)));
        assert_eq!(parse_timeout("100u"), Some(Duration::from_micros(100)));
        assert_eq!(parse_timeout("5n"), Some(Duration::from_nanos(5)));
        assert_eq!(parse_timeout("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(parse_timeout("1M"), Some(Duration::from_secs(60)));
        for bad in ["", "S", "3", "3s", "-3S", "123456789S", "3é", "3.5S"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }
}
