//! Unwraps keys before they are needed, so that they are in memory when the key service is unreachable.
//!
//! Must not know which key service wrapped a key: the caller names the candidates.

use std::sync::Arc;

use super::cache::Cache;
use super::list::WrappedKey;
use crate::clock::Deadline;
use crate::key_service::{ErrorKind, KeyScope, KeyService, KeyVersion};

/// A key service that may have wrapped a ciphertext, and the version of its key.
#[derive(Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub key_service: &'a Arc<dyn KeyService>,
    pub version: u32,
    /// When that version was made, in seconds since 1970; `None` when it is not known.
    pub created: Option<i64>,
}

impl<'a> Candidate<'a> {
    /// The key version, under the id that a ciphertext was stored with.
    pub(crate) fn key_version<'b>(&self, key_id: &'b str) -> KeyVersion<'b>
    where
        'a: 'b,
    {
        KeyVersion { scope: self.key_service.scope(), version: self.version, created: self.created, key_id }
    }
}

/// The outcome of a prefetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefetched {
    /// The key is in memory.
    Cached,
    /// Retry later: its key service was not read yet or failed, or the key could not be cached.
    NotYet,
    /// No key service can unwrap it any more.
    Never,
}

/// Unwraps `key` with the first of `candidates` that can, and caches it. Key services in `failed` are skipped; one
/// that fails is added, so that the next key does not call it again.
pub(crate) async fn prefetch(
    cache: &Cache,
    key: &WrappedKey,
    candidates: &[Candidate<'_>],
    failed: &mut Vec<KeyScope>,
    deadline: Deadline,
) -> Prefetched {
    let mut outcome = Prefetched::Never;
    for candidate in candidates {
        let key_service = candidate.key_service.as_ref();
        if key_service.ciphertext_version(&key.wrapped) != Some(candidate.version) {
            continue;
        }
        if failed.contains(key_service.scope()) {
            outcome = Prefetched::NotYet;
            continue;
        }
        let key_version = candidate.key_version(&key.key_id);
        match cache.unwrap(key_service, key.kind, key_version, &key.wrapped, deadline).await {
            Ok(_) if cache.contains(key) => return Prefetched::Cached,
            Ok(_) => return Prefetched::NotYet,
            Err(error) if matches!(error.kind(), ErrorKind::BadCiphertext | ErrorKind::VersionGone) => {}
            Err(error) => {
                tracing::debug!(%error, KMS_KEY_ID = key.key_id, "a key could not be prefetched");
                failed.push(key_service.scope().clone());
                outcome = Prefetched::NotYet;
            }
        }
    }
    outcome
}
