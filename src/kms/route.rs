//! Which key service unwraps a ciphertext: decided by its key_id, else by its form.

use super::view::View;
use crate::key_service::key_id;
use crate::local_kek::Candidate;

/// Where to unwrap a ciphertext.
pub(crate) enum Route<'a> {
    /// At these key services, each under this version of its key. Two clusters whose keys have the same name and were
    /// created in the same second have the same key_ids: then one after the other is tried.
    Known(Vec<Candidate<'a>>),
    /// The key_id is in our form, and no known key or version has it.
    Unknown,
    /// The key_id names this version of a known key, and the ciphertext was made by another one: somebody combined them,
    /// by mistake or on purpose.
    Mismatch { named: u32, made_by: Option<u32> },
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
                // The ciphertext names its version, and the key_id must be the one of that version.
                let version = key_service.ciphertext_version(ciphertext)?;
                let created = key.versions.get(version);
                key.has_id(version, key_id).then_some(Candidate { key_service, version, created })
            });
        let known: Vec<_> = candidates.collect();
        if !known.is_empty() {
            Route::Known(known)
        } else if key_id.starts_with(key_id::PREFIX) {
            self.mismatch(key_id, ciphertext).unwrap_or(Route::Unknown)
        } else if let Some(version) = services.primary.ciphertext_version(ciphertext) {
            let versions = snapshot.primary.key.as_ref().map(|key| &key.versions);
            let created = versions.and_then(|versions| versions.get(version));
            Route::OtherPlugin(Candidate { key_service: &services.primary, version, created })
        } else {
            Route::Unreadable
        }
    }

    /// Whether a known key has the key_id, for another version than the ciphertext's.
    fn mismatch(&self, key_id: &str, ciphertext: &[u8]) -> Option<Route<'_>> {
        let services = std::iter::once(&self.services.primary).chain(&self.services.decrypt_only);
        services.zip(self.snapshot.services()).find_map(|(key_service, state)| {
            let key = state.key.as_ref()?;
            let named = key.version_of(key_id)?;
            Some(Route::Mismatch { named, made_by: key_service.ciphertext_version(ciphertext) })
        })
    }
}
