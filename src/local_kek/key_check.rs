//! What local KEKs add to the watch over a key service: a local KEK ahead of each new version, and for a key
//! service that only unwraps, whether it still does.

use std::sync::Arc;
use std::time::Duration;

use super::Cache;
use crate::clock::Deadline;
use crate::key_service::{ErrorKind, KeyDescription, KeyService, KeyServiceError, KeyVersion, key_id};

/// Time for one call.
const CALL: Duration = Duration::from_secs(3);

/// The keys in memory, and the epoch of our key_ids.
pub(crate) struct KeyCheck {
    pub keys: Arc<Cache>,
    pub epoch: u32,
}

impl KeyCheck {
    /// Makes the local KEK for the key as it was read: nobody may be told of a new version before one can wrap
    /// under it without the key service. Where none can be made, the version that is `known` stays the latest for
    /// now, and the newer one only unwraps. True when all is as it was read.
    pub(crate) async fn prepare(
        &self,
        key_service: &dyn KeyService,
        key: &mut KeyDescription,
        known: u32,
    ) -> bool {
        let Some(created) = key.versions.get(&key.latest).copied() else { return true };
        let key_id = key_id::derive(key_service.scope(), key.latest, created, self.epoch);
        let (version, created) = (key.latest, Some(created));
        let key_version = KeyVersion { scope: key_service.scope(), version, created, key_id: &key_id };
        match self.keys.prepare(key_service, key_version, Deadline::after(CALL)).await {
            Err(error) if error.is_outage() && !self.keys.is_usable(&key_id) => {
                if known < key.latest && key.versions.contains_key(&known) {
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
            // A refusal shows in the round trips.
            Ok(()) | Err(_) => true,
        }
    }

    /// Whether a key service that only unwraps still does so, by a form that was seen: its keys in memory must
    /// not outlive that right.
    ///
    /// # Errors
    /// The key service's.
    pub(crate) async fn try_unwrap(
        &self,
        key_service: &dyn KeyService,
        key: &KeyDescription,
    ) -> Result<(), KeyServiceError> {
        let Some(form) = self.keys.sample(key_service.scope(), &key.versions) else { return Ok(()) };
        match key_service.unwrap(&form.wrapped, &form.data(), Deadline::after(CALL)).await {
            // It answered, and the form was of a version that was switched off meanwhile.
            Err(error) if matches!(error.kind(), ErrorKind::BadCiphertext | ErrorKind::VersionGone) => Ok(()),
            unwrapped => unwrapped.map(drop),
        }
    }
}
