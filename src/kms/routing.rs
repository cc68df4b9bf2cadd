//! Which key service unwraps a ciphertext: decided by its key_id, else by its form.

use std::sync::Arc;

use crate::config::local_kek::Policy;
use crate::health::{Refresh, Snapshot};
use crate::key_service::{KeyService, key_id};
use crate::local_kek::{Cache, Candidate};

/// The key services by place: the primary, then the `decrypt_only` ones in the snapshot's order.
pub struct Routes {
    /// The one that wraps.
    pub primary: Arc<dyn KeyService>,
    /// Those that only unwrap.
    pub decrypt_only: Vec<Arc<dyn KeyService>>,
    /// Whether the primary also unwraps what another plugin wrote with its key.
    pub accept_foreign_ciphertext: bool,
}

/// The key services and the way to have them read: replaced together at a reload.
pub struct Link {
    /// Where ciphertexts go.
    pub routes: Routes,
    /// How to have the keys read ahead of time.
    pub refresh: Refresh,
    /// The keys in memory: empty, and no key is kept, while local KEKs are off.
    pub keys: Arc<Cache>,
    /// What is allowed of local KEKs; `None` is off.
    pub policy: Option<Policy>,
}

/// A snapshot with the key services that it is about. One value, so that no call wraps with one
/// configuration's key under another's key_id.
#[derive(Clone)]
pub struct View {
    /// The state.
    pub snapshot: Arc<Snapshot>,
    /// What it is the state of.
    pub link: Arc<Link>,
}

/// Where a ciphertext goes.
pub enum Route<'a> {
    /// To these services, each under this version of its key. Two clusters whose keys have the same name
    /// and were made in the same second share ids: then one after the other is tried.
    Known(Vec<Candidate<'a>>),
    /// One of our ids, of a key or version that is not known.
    Unknown,
    /// Another plugin's id on a ciphertext of the primary's form.
    OtherPlugin(Candidate<'a>),
    /// Neither our id nor a form that the primary reads.
    Unreadable,
}

impl Routes {
    /// Finds the way of a ciphertext.
    pub fn find(&self, snapshot: &Snapshot, key_id: &str, ciphertext: &[u8]) -> Route<'_> {
        let services = std::iter::once((&self.primary, &snapshot.primary))
            .chain(self.decrypt_only.iter().zip(&snapshot.decrypt_only));
        let known: Vec<_> = services
            .filter_map(|(key_service, state)| {
                let key = state.key.as_ref()?;
                let version = *key.ids.get(key_id)?;
                Some(Candidate { key_service, version, created: key.versions.get(&version).copied() })
            })
            .collect();
        if !known.is_empty() {
            Route::Known(known)
        } else if key_id.starts_with(key_id::PREFIX) {
            Route::Unknown
        } else if let Some(version) = self.primary.ciphertext_version(ciphertext) {
            let versions = snapshot.primary.key.as_ref().map(|key| &key.versions);
            let created = versions.and_then(|versions| versions.get(&version).copied());
            Route::OtherPlugin(Candidate { key_service: &self.primary, version, created })
        } else {
            Route::Unreadable
        }
    }
}
