//! The calls to the key service behind the cache: one for all who want the same key at once.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::cache::{Cache, Subject};
use super::format::KEY_BYTES;
use super::record::{Fingerprint, Kind};
use crate::backend::{Backend, BackendError, ErrorKind};
use crate::clock::Deadline;

/// The unwraps under way, by key service and what is unwrapped: two may share a key_id, and one's answer is not the
/// other's.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<Flight, Arc<Turn>>>);

/// A key service, by its place in memory, and what is unwrapped.
type Flight = (usize, Fingerprint);

/// Whose turn it is, and what the one before failed with: who waited for it takes that for an answer.
type Turn = tokio::sync::Mutex<Option<BackendError>>;

/// A caller's part in a flight.
struct Seat<'a> {
    flights: &'a Flights,
    flight: Flight,
    turn: Arc<Turn>,
}

impl Flights {
    fn join(&self, backend: &dyn Backend, fingerprint: Fingerprint) -> Seat<'_> {
        let flight = (std::ptr::from_ref(backend).cast::<()>().addr(), fingerprint);
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Seat { flights: self, flight, turn: under_way.entry(flight).or_default().clone() }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut under_way = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The last one: the table's and ours.
        if Arc::strong_count(&self.turn) <= 2 {
            under_way.remove(&self.flight);
        }
    }
}

impl Cache {
    /// The key whose wrapped form this is: the one in memory, or what `backend` makes of it, which is kept.
    ///
    /// # Errors
    /// The key service's, or that a key of another length came back than a local KEK has.
    pub async fn unwrap(
        &self,
        backend: &dyn Backend,
        kind: Kind,
        subject: Subject<'_>,
        wrapped: &[u8],
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, BackendError> {
        let data = kind.data(subject.key_id);
        if !self.is_on() {
            return backend.unwrap(wrapped, &data, deadline).await;
        }
        let flight = self.flights.join(backend, Fingerprint::of(kind, subject.key_id, wrapped));
        let mut failure = tokio::time::timeout_at(deadline.instant(), flight.turn.lock())
            .await
            .map_err(|_| BackendError::deadline("waiting for another call that unwraps the same key"))?;
        if let Some(found) = self.find(kind, subject.key_id, wrapped) {
            return Ok(found);
        }
        if let Some(error) = &*failure {
            return Err(error.clone());
        }
        let unwrapped = backend.unwrap(wrapped, &data, deadline).await;
        self.unwraps.fetch_add(1, Ordering::Relaxed);
        match &unwrapped {
            Ok(secret) if kind == Kind::Seed || secret.len() == KEY_BYTES => {
                self.keep(kind, subject, wrapped, secret);
            }
            // A short deadline is its caller's own.
            Err(error) if error.kind() != ErrorKind::Deadline => *failure = Some(error.clone()),
            Ok(_) | Err(_) => {}
        }
        unwrapped
    }

    /// Makes the local KEK for a version of the primary's key, unless there is one that will do. It is unwrapped
    /// once before it is used: what could not be read again is not written.
    ///
    /// # Errors
    /// The key service's, or that the wrapped form is not one that can be used.
    pub async fn prepare(
        &self,
        backend: &dyn Backend,
        subject: Subject<'_>,
        deadline: Deadline,
    ) -> Result<(), BackendError> {
        let _alone = tokio::time::timeout_at(deadline.instant(), self.making.lock())
            .await
            .map_err(|_| BackendError::deadline("waiting for a local KEK that is being made"))?;
        if !self.wants_another(subject.key_id) {
            return Ok(());
        }
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(&mut *key).map_err(|_| {
            let text = "the system gives no random bytes for a local KEK";
            BackendError::new(ErrorKind::Internal, text, "report this as a bug")
        })?;
        let data = Kind::Own.data(subject.key_id);
        let wrapped = backend.wrap(subject.version, &*key, &data, deadline).await?;
        let unwrapped = backend.unwrap(&wrapped, &data, deadline).await?;
        if *unwrapped != *key {
            return Err(BackendError::new(
                ErrorKind::KeyUnusable,
                "the key service gave another local KEK back than it wrapped; it is not used",
                "stop writing Secrets, and look at the key service: it is not what it should be",
            ));
        }
        // A server that does not know associated data takes no notice of it, and its successor would not unwrap.
        match backend.unwrap(&wrapped, &[], deadline).await {
            Err(error) if error.kind() == ErrorKind::BadCiphertext => {}
            Err(error) => return Err(error),
            Ok(_) => {
                return Err(BackendError::new(
                    ErrorKind::KeyUnusable,
                    "the key service takes no notice of associated data, which binds a local KEK to its key_id; none is used",
                    "update Vault or OpenBao, or set local_kek.enabled = false",
                ));
            }
        }
        if !self.adopt(subject, &wrapped, &key) {
            return Err(match self.is_refused(subject) {
                true => BackendError::new(
                    ErrorKind::Unreachable,
                    format!(
                        "a new local KEK under {} is not used yet: the key service refused us a moment ago",
                        subject.scope
                    ),
                    "it is tried again; if it stays, look at /healthz",
                ),
                false => BackendError::new(
                    ErrorKind::Internal,
                    format!("a new local KEK under {} cannot be kept in memory", subject.scope),
                    "look at the log and at the limits of memory (LimitMEMLOCK=, MemoryMax=)",
                ),
            });
        }
        tracing::info!(
            KMS_KEY_ID = subject.key_id,
            "a new local KEK wraps from now on, under {} version {}",
            subject.scope,
            subject.version
        );
        Ok(())
    }
}

#[cfg(test)]
#[path = "flight_tests.rs"]
mod tests;
