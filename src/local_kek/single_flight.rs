//! The calls to the key service behind the cache: one for all who want the same key at once.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::cache::Cache;
use super::format::KEY_BYTES;
use super::record::{Fingerprint, Kind};
use crate::clock::Deadline;
use crate::key_service::{ErrorKind, KeyService, KeyServiceError, KeyVersion};

/// The unwraps under way, by key service and what is unwrapped: two may share a key_id, and one's answer is not the
/// other's.
#[derive(Default)]
pub(super) struct SingleFlight(Mutex<HashMap<CallId, Arc<Call>>>);

/// A key service, by its address in memory, and the wrapped key.
type CallId = (usize, Fingerprint);

/// One call at a time holds the lock. It leaves its failure behind, which is the answer for those who waited.
type Call = tokio::sync::Mutex<Option<KeyServiceError>>;

/// One of the callers that want the same key.
struct Waiter<'a> {
    calls: &'a SingleFlight,
    id: CallId,
    call: Arc<Call>,
}

impl SingleFlight {
    fn join(&self, key_service: &dyn KeyService, fingerprint: Fingerprint) -> Waiter<'_> {
        let id = (std::ptr::from_ref(key_service).cast::<()>().addr(), fingerprint);
        let mut under_way = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Waiter { calls: self, id, call: under_way.entry(id).or_default().clone() }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut under_way = self.calls.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The last one: the table's and ours.
        if Arc::strong_count(&self.call) <= 2 {
            under_way.remove(&self.id);
        }
    }
}

impl Cache {
    /// The key whose wrapped form this is: the one in memory, or what `key_service` makes of it, which is kept.
    ///
    /// # Errors
    /// The key service's, or that a key of another length came back than a local KEK has.
    pub async fn unwrap(
        &self,
        key_service: &dyn KeyService,
        kind: Kind,
        key_version: KeyVersion<'_>,
        wrapped: &[u8],
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, KeyServiceError> {
        let data = kind.data(key_version.key_id);
        if !self.is_on() {
            return key_service.unwrap(wrapped, &data, deadline).await;
        }
        let waiter = self.calls.join(key_service, Fingerprint::of(kind, key_version.key_id, wrapped));
        let mut failure = tokio::time::timeout_at(deadline.instant(), waiter.call.lock())
            .await
            .map_err(|_| KeyServiceError::deadline("waiting for another call that unwraps the same key"))?;
        if let Some(found) = self.find(kind, key_version.key_id, wrapped) {
            return Ok(found);
        }
        if let Some(error) = &*failure {
            return Err(error.clone());
        }
        let unwrapped = key_service.unwrap(wrapped, &data, deadline).await;
        self.unwraps.fetch_add(1, Ordering::Relaxed);
        match &unwrapped {
            Ok(secret) if kind == Kind::Seed || secret.len() == KEY_BYTES => {
                self.keep(kind, key_version, wrapped, secret);
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
        key_service: &dyn KeyService,
        key_version: KeyVersion<'_>,
        deadline: Deadline,
    ) -> Result<(), KeyServiceError> {
        let _alone = tokio::time::timeout_at(deadline.instant(), self.making.lock())
            .await
            .map_err(|_| KeyServiceError::deadline("waiting for a local KEK that is being made"))?;
        if !self.needs_replacement(key_version.key_id) {
            return Ok(());
        }
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(&mut *key).map_err(|_| {
            let text = "the system gives no random bytes for a local KEK";
            KeyServiceError::new(ErrorKind::Internal, text, "report this as a bug")
        })?;
        let data = Kind::Own.data(key_version.key_id);
        let wrapped = key_service.wrap(key_version.version, &*key, &data, deadline).await?;
        let unwrapped = key_service.unwrap(&wrapped, &data, deadline).await?;
        if *unwrapped != *key {
            return Err(KeyServiceError::new(
                ErrorKind::KeyUnusable,
                "the key service gave another local KEK back than it wrapped; it is not used",
                "stop writing Secrets, and look at the key service: it is not what it should be",
            ));
        }
        // A server that does not know associated data takes no notice of it, and its successor would not unwrap.
        match key_service.unwrap(&wrapped, &[], deadline).await {
            Err(error) if error.kind() == ErrorKind::BadCiphertext => {}
            Err(error) => return Err(error),
            Ok(_) => {
                return Err(KeyServiceError::new(
                    ErrorKind::KeyUnusable,
                    "the key service takes no notice of associated data, which binds a local KEK to its key_id; none is used",
                    "update Vault or OpenBao, or set local_kek.enabled = false",
                ));
            }
        }
        if !self.adopt(key_version, &wrapped, &key) {
            return Err(match self.is_refused(key_version) {
                true => KeyServiceError::new(
                    ErrorKind::Unreachable,
                    format!(
                        "a new local KEK under {} is not used yet: the key service refused us a moment ago",
                        key_version.scope
                    ),
                    "it is tried again; if it stays, look at /healthz",
                ),
                false => KeyServiceError::new(
                    ErrorKind::Internal,
                    format!("a new local KEK under {} cannot be kept in memory", key_version.scope),
                    "look at the log and at the limits of memory (LimitMEMLOCK=, MemoryMax=)",
                ),
            });
        }
        tracing::info!(
            KMS_KEY_ID = key_version.key_id,
            "a new local KEK wraps from now on, under {} version {}",
            key_version.scope,
            key_version.version
        );
        Ok(())
    }
}

#[cfg(test)]
#[path = "single_flight_tests.rs"]
mod tests;
