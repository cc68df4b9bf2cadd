//! Checks of a key service that only local KEKs need: a new key version has a local KEK before Status announces it,
//! and a key service that only unwraps still unwraps.

use std::sync::Arc;
use std::time::Duration;

use super::Cache;
use crate::clock::Deadline;
use crate::key_service::{ErrorKind, KeyDescription, KeyService, KeyServiceError, KeyVersion, key_id};

/// Time limit of one call to a key service that only local KEKs need.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// The checks, with the cache and the epoch of our key_ids.
pub(crate) struct KeyCheck {
    pub keys: Arc<Cache>,
    pub epoch: u32,
}

impl KeyCheck {
    /// Makes the local KEK for the version that `key` describes. Status must not announce a version before the agent
    /// can wrap under it without the key service. If no local KEK can be made in an outage, `key.latest` becomes the
    /// version that is already `known`, and the newer version only unwraps. Returns whether the result is final; if
    /// not, the caller checks again.
    pub(crate) async fn prepare(
        &self,
        key_service: &dyn KeyService,
        key: &mut KeyDescription,
        known: u32,
    ) -> bool {
        let Some(created) = key.versions.get(key.latest) else { return true };
        self.keys.key_was_read();
        let key_id = key_id::derive(key_service.scope(), key.latest, created, self.epoch);
        let (version, created) = (key.latest, Some(created));
        let key_version = KeyVersion { scope: key_service.scope(), version, created, key_id: &key_id };
        match self.keys.prepare(key_service, key_version, Deadline::after(CALL_TIMEOUT)).await {
            // While the service refuses, none is kept. The refusal may end for the newest version alone.
            Err(_) if self.keys.is_refused(key_version) => true,
            Err(error) if error.is_outage() && !self.keys.is_usable(&key_id) => {
                let may_wrap = known >= key.min_encryption && key.versions.contains(known);
                if known < key.latest && may_wrap {
                    tracing::warn!(
                        KMS_REASON = error.kind().name(),
                        KMS_REMEDY = error.remedy(),
                        "version {version} of {} is not announced yet: its local KEK could not be made: {error}",
                        key_service.scope()
                    );
                    key.latest = known;
                }
                false
            }
            // The agent's own probe reports a refusal.
            Ok(()) | Err(_) => true,
        }
    }

    /// Whether a key service that only unwraps still does so: unwraps one listed wrapped key. The cached keys must
    /// not be used longer than the agent has that right.
    ///
    /// # Errors
    /// The key service's.
    pub(crate) async fn try_unwrap(
        &self,
        key_service: &dyn KeyService,
        key: &KeyDescription,
    ) -> Result<(), KeyServiceError> {
        let Some(sample) = self.keys.sample(key_service.scope(), &key.versions) else { return Ok(()) };
        match key_service.unwrap(&sample.wrapped, &sample.aad(), Deadline::after(CALL_TIMEOUT)).await {
            // The service answers; the wrapped key is of a version that was disabled meanwhile.
            Err(error) if matches!(error.kind(), ErrorKind::BadCiphertext | ErrorKind::VersionGone) => Ok(()),
            unwrapped => unwrapped.map(drop),
        }
    }
}
