//! The calls to the key service behind the cache: one for all who want the same key at once.

use std::sync::atomic::Ordering;

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::cache::{Cache, Subject};
use super::format::{KEY_BYTES, kek_data};
use super::record::{Fingerprint, Kind};
use crate::backend::{Backend, BackendError, ErrorKind};
use crate::clock::Deadline;

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
        let data = if kind == Kind::Seed { Vec::new() } else { kek_data(subject.key_id) };
        if !self.is_on() {
            return backend.unwrap(wrapped, &data, deadline).await;
        }
        let Fingerprint([first, ..]) = Fingerprint::of(kind, subject.key_id, wrapped);
        let Some(flight) = self.flights.get(usize::from(first) % self.flights.len()) else {
            return backend.unwrap(wrapped, &data, deadline).await;
        };
        let _alone = tokio::time::timeout_at(deadline.instant(), flight.lock())
            .await
            .map_err(|_| BackendError::deadline("waiting for another call that unwraps a key"))?;
        if let Some(found) = self.find(kind, subject.key_id, wrapped) {
            return Ok(found);
        }
        let secret = backend.unwrap(wrapped, &data, deadline).await?;
        self.unwraps.fetch_add(1, Ordering::Relaxed);
        if kind == Kind::Seed || secret.len() == KEY_BYTES {
            self.keep(kind, subject, wrapped, &secret);
        }
        Ok(secret)
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
        let data = kek_data(subject.key_id);
        let wrapped = backend.wrap(subject.version, &*key, &data, deadline).await?;
        let unwrapped = backend.unwrap(&wrapped, &data, deadline).await?;
        if *unwrapped != *key {
            return Err(BackendError::new(
                ErrorKind::KeyUnusable,
                "the key service gave another local KEK back than it wrapped; it is not used",
                "stop writing Secrets, and look at the key service: it is not what it should be",
            ));
        }
        // While the key service refuses us as far as we know, it stays unused; who wraps then tries again.
        if !self.adopt(subject, &wrapped, &key) && !self.is_refused(subject) {
            return Err(BackendError::new(
                ErrorKind::Internal,
                format!("a new local KEK under {} cannot be kept in memory", subject.scope),
                "look at the log and at the limits of memory (LimitMEMLOCK=, MemoryMax=)",
            ));
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
