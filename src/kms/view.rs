//! What one call sees: the key services of the current configuration, and the snapshot of their state. Finds the key
//! service that made a ciphertext.

use std::sync::Arc;

use crate::config::local_kek::Policy;
use crate::health::{Refresh, Snapshot};
use crate::key_service::{KeyService, key_id};
use crate::local_kek::{Cache, Candidate};

/// The key services of one configuration, and what belongs to them. A reload replaces all of it together.
pub(crate) struct KeyServices {
    /// Wraps and unwraps.
    pub primary: Arc<dyn KeyService>,
    /// Only unwrap; in the order of the snapshot.
    pub decrypt_only: Vec<Arc<dyn KeyService>>,
    /// Whether the primary also unwraps what another plugin wrote with its key.
    pub accept_foreign_ciphertext: bool,
    /// Requests to read the keys now.
    pub refresh: Refresh,
    /// The local KEKs and seeds in memory. It outlives a reload, and stays empty while local KEKs are off.
    pub local_keks: Arc<Cache>,
    /// The limits of local KEKs; `None` while they are off.
    pub local_kek_policy: Option<Policy>,
}

/// A snapshot, and the key services that it is about. They are one value, so that no call wraps with the key of one
/// configuration and answers with the key_id of another.
#[derive(Clone)]
pub(crate) struct View {
    pub snapshot: Arc<Snapshot>,
    pub services: Arc<KeyServices>,
}

/// Where to unwrap a ciphertext.
pub(crate) enum Route<'a> {
    /// At these key services, each under this version of its key. Two clusters whose keys have the same name and were
    /// created in the same second have the same key_ids: then one after the other is tried.
    Known(Vec<Candidate<'a>>),
    /// The key_id is in our form, and no known key or version has it.
    Unknown,
    /// The key_id is of another plugin, and the ciphertext is in the form of the primary.
    OtherPlugin(Candidate<'a>),
    /// The key_id is of another plugin, and the primary cannot read the ciphertext.
    Unreadable,
}

impl View {
    /// Decides where to unwrap a ciphertext: by its key_id, else by its form.
    pub(crate) fn route(&self, key_id: &str, ciphertext: &[u8]) -> Route<'_> {
        let (services, snapshot) = (&self.services, &self.snapshot);
        let candidates = std::iter::once((&services.primary, &snapshot.primary))
            .chain(services.decrypt_only.iter().zip(&snapshot.decrypt_only))
            .filter_map(|(key_service, state)| {
                let key = state.key.as_ref()?;
                let version = *key.ids.get(key_id)?;
                Some(Candidate { key_service, version, created: key.versions.get(&version).copied() })
            });
        let known: Vec<_> = candidates.collect();
        if !known.is_empty() {
            Route::Known(known)
        } else if key_id.starts_with(key_id::PREFIX) {
            Route::Unknown
        } else if let Some(version) = services.primary.ciphertext_version(ciphertext) {
            let versions = snapshot.primary.key.as_ref().map(|key| &key.versions);
            let created = versions.and_then(|versions| versions.get(&version).copied());
            Route::OtherPlugin(Candidate { key_service: &services.primary, version, created })
        } else {
            Route::Unreadable
        }
    }
}
