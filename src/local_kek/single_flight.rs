//! The table of unwraps that are running: callers that need the same key share one call to the key service.
//!
//! Must not know what is called or what is done with the result.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::record::Fingerprint;
use crate::key_service::{KeyService, KeyServiceError};

/// The running unwraps.
#[derive(Default)]
pub(super) struct Calls(Mutex<HashMap<CallId, Arc<Call>>>);

/// The key service, by its address in memory, and the wrapped key. Two key services may know the same key_id, and
/// the result of one is not the result of the other.
type CallId = (usize, Fingerprint);

/// The caller that holds the lock calls the key service. If the call fails, it stores the error for the waiters.
pub(super) type Call = tokio::sync::Mutex<Option<KeyServiceError>>;

/// One of the callers that need the same key. The last one to be dropped removes the call from the table.
pub(super) struct Waiter<'a> {
    calls: &'a Calls,
    id: CallId,
    call: Arc<Call>,
}

impl Calls {
    /// Joins the running call for this wrapped key, or starts one.
    pub(super) fn join(&self, key_service: &dyn KeyService, fingerprint: Fingerprint) -> Waiter<'_> {
        let id = (std::ptr::from_ref(key_service).cast::<()>().addr(), fingerprint);
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Waiter { calls: self, id, call: running.entry(id).or_default().clone() }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Waiter<'_> {
    pub(super) fn call(&self) -> &Call {
        &self.call
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut running = self.calls.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Two references are left: the table's and ours. So nobody else waits.
        if Arc::strong_count(&self.call) <= 2 {
            running.remove(&self.id);
        }
    }
}
