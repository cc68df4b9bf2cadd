//! What one call sees: the key services of the current configuration, and the snapshot of their state.

use std::sync::Arc;

use crate::config::local_kek::Policy;
use crate::health::{Refresh, Snapshot};
use crate::key_service::KeyService;
use crate::local_kek::Cache;

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
