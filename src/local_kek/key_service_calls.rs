//! The cache's calls to the key service: unwrap a key that is not cached, and make a local KEK. Callers that need the
//! same key at the same time share one call.

use std::sync::atomic::Ordering;

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::cache::Cache;
use super::format::KEY_BYTES;
use super::record::KeyKind;
use crate::clock::Deadline;
use crate::key_service::{ErrorKind, KeyService, KeyServiceError, KeyVersion};

impl Cache {
    /// Unwraps a key: takes it from the cache, or calls `key_service` and caches the result. Callers that need the same key
    /// while it is unwrapped get the same result, also where local KEKs are off and nothing is cached.
    ///
    /// # Errors
    /// The key service's.
    pub(crate) async fn unwrap(
        &self,
        key_service: &dyn KeyService,
        kind: KeyKind,
        key_version: KeyVersion<'_>,
        wrapped: &[u8],
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, KeyServiceError> {
        let aad = kind.aad(key_version.key_id);
        let enabled = self.is_enabled();
        let waiter = self.calls.join(key_service, kind, key_version.key_id, wrapped);
        let mut shared = tokio::time::timeout_at(deadline.instant(), waiter.result().lock())
            .await
            .map_err(|_| KeyServiceError::deadline("waiting for another call that unwraps the same key"))?;
        if let Some(found) = self.find(kind, key_version.key_id, wrapped) {
            return Ok(found);
        }
        if let Some(result) = &*shared {
            return result.clone();
        }
        let unwrapped = key_service.unwrap(wrapped, &aad, deadline).await;
        if enabled {
            self.unwraps.fetch_add(1, Ordering::Relaxed);
            if let Ok(secret) = &unwrapped
                && (kind == KeyKind::Seed || secret.len() == KEY_BYTES)
            {
                self.insert(kind, key_version, wrapped, secret);
            }
        }
        // A waiter may have a later deadline, and then makes its own call.
        let of_all = unwrapped.as_ref().err().is_none_or(|error| error.kind() != ErrorKind::Deadline);
        if of_all && waiter.is_shared() {
            *shared = Some(unwrapped.clone());
        }
        unwrapped
    }

    /// Makes the local KEK for a version of the primary's key, unless there is one that needs no replacement. It is
    /// unwrapped once before its first use, and the key is read: a local KEK that cannot be unwrapped, or only by another
    /// key under the name, must not wrap data.
    ///
    /// # Errors
    /// The key service's, or that the local KEK cannot be unwrapped or cached.
    pub(crate) async fn prepare(
        &self,
        key_service: &dyn KeyService,
        key_version: KeyVersion<'_>,
        deadline: Deadline,
    ) -> Result<(), KeyServiceError> {
        let _lock = tokio::time::timeout_at(deadline.instant(), self.prepare_lock.lock())
            .await
            .map_err(|_| KeyServiceError::deadline("waiting for another call that makes a local KEK"))?;
        if !self.needs_replacement(key_version.key_id) {
            return Ok(());
        }
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(&mut *key).map_err(|_| {
            let text = "the system's random generator failed, so no local KEK could be made";
            KeyServiceError::new(ErrorKind::Internal, text, "report this as a bug")
        })?;
        let aad = KeyKind::Current.aad(key_version.key_id);
        let wrapped = key_service.wrap(key_version.version, &*key, &aad, deadline).await?;
        // At once: on a slow way, one after the other would take all the time that the caller has.
        let (unwrapped, (), read) = tokio::try_join!(
            key_service.unwrap(&wrapped, &aad, deadline),
            require_aad(key_service, &wrapped, deadline),
            require_known_key(key_service, key_version, deadline),
        )?;
        if *unwrapped != *key {
            return Err(KeyServiceError::new(
                ErrorKind::KeyUnusable,
                "the key service unwrapped a new local KEK to other bytes than it had wrapped; the local KEK is not used",
                "stop writing Secrets, and check the key service: it returns wrong data",
            ));
        }
        if !self.insert_current(key_version, &wrapped, &key) {
            return Err(self.not_cached(key_version));
        }
        if !read {
            self.set_unread(key_version, &wrapped);
        }
        tracing::info!(
            KMS_KEY_ID = key_version.key_id,
            "a new local KEK is in use, under {} version {}",
            key_version.scope,
            key_version.version
        );
        Ok(())
    }

    /// Why a new local KEK could not be cached.
    fn not_cached(&self, key_version: KeyVersion<'_>) -> KeyServiceError {
        match self.is_refused(key_version) {
            true => KeyServiceError::new(
                ErrorKind::Unreachable,
                format!(
                    "a new local KEK under {} is not used yet: the key service refused us a moment ago",
                    key_version.scope
                ),
                "the agent retries; if this does not end, check /healthz",
            ),
            false => KeyServiceError::new(
                ErrorKind::Internal,
                format!("a new local KEK under {} cannot be cached in memory", key_version.scope),
                "check the log, and the memory limits (LimitMEMLOCK=, MemoryMax=)",
            ),
        }
    }
}

/// Whether the server checks AAD: it must not unwrap without it. An old server ignores AAD, and after its upgrade
/// could not unwrap what it had wrapped.
async fn require_aad(
    key_service: &dyn KeyService,
    wrapped: &[u8],
    deadline: Deadline,
) -> Result<(), KeyServiceError> {
    match key_service.unwrap(wrapped, &[], deadline).await {
        Err(error) if error.kind() == ErrorKind::BadCiphertext => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(KeyServiceError::new(
            ErrorKind::KeyUnusable,
            "the key service ignores associated data (AAD), which binds a local KEK to its key_id; no local KEK is used",
            "update Vault or OpenBao, or set local_kek.enabled = false",
        )),
    }
}

/// Reads the key: it must be the one that the key_id names. Another key under the name wraps and unwraps as well, and is
/// noticed at the next read; what it has wrapped is lost when the old key is back, and a local KEK is in use for long.
/// False where the policy does not allow to read the key: then nobody can tell.
async fn require_known_key(
    key_service: &dyn KeyService,
    key_version: KeyVersion<'_>,
    deadline: Deadline,
) -> Result<bool, KeyServiceError> {
    let Some(created) = key_version.created else { return Ok(false) };
    let key = match key_service.describe(key_version.version, deadline).await {
        Ok(key) => key,
        Err(error) if error.kind() == ErrorKind::Denied => return Ok(false),
        Err(error) => return Err(error),
    };
    let found = key.versions.get(key_version.version);
    if found == Some(created) || (found.is_none() && key.latest >= key_version.version) {
        return Ok(true);
    }
    // The same kind as for a key that was rolled back: whoever called reads the key.
    Err(KeyServiceError::new(
        ErrorKind::VersionAhead,
        format!(
            "version {} of {} is another one than before; no local KEK is made under it",
            key_version.version, key_version.scope
        ),
        "run kms-plugin status: it names the change",
    ))
}

#[cfg(test)]
#[path = "key_service_calls_tests.rs"]
mod tests;
