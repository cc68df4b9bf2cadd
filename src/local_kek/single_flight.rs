//! The table of unwraps that are running: callers that need the same key share one call to the key service.
//! kube-apiserver from 1.37 on decodes ten objects at once, and so asks ten times for one seed when it starts.
//!
//! Must not know what is called or what is done with the result.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use super::record::Fingerprint;
use crate::key_service::{KeyService, KeyServiceError};

/// The running unwraps.
#[derive(Default)]
pub(super) struct Calls {
    table: Mutex<HashMap<CallId, Arc<Call>>>,
    /// How many unwraps run, in the table or not.
    running: AtomicUsize,
}

/// The key service, by its address in memory, and the wrapped key. Two key services may know the same key_id, and
/// the result of one is not the result of the other.
type CallId = (usize, Fingerprint);

/// The caller that holds the lock calls the key service, and stores the result for the waiters.
pub(super) type Call = tokio::sync::Mutex<Option<Unwrapped>>;

/// The result of a call.
pub(super) type Unwrapped = Result<Zeroizing<Vec<u8>>, KeyServiceError>;

/// One running unwrap, until it is dropped.
pub(super) struct Running<'a>(&'a AtomicUsize);

/// One of the callers that need the same key. The last one to be dropped removes the call from the table.
pub(super) struct Waiter<'a> {
    calls: &'a Calls,
    id: CallId,
    call: Arc<Call>,
}

impl Calls {
    /// Counts one more unwrap. Returns whether others run.
    pub(super) fn begin(&self) -> (Running<'_>, bool) {
        let others = self.running.fetch_add(1, Ordering::Relaxed) > 0;
        (Running(&self.running), others)
    }

    /// Joins the running call for this wrapped key, or starts one.
    pub(super) fn join(&self, key_service: &dyn KeyService, fingerprint: Fingerprint) -> Waiter<'_> {
        let id = (std::ptr::from_ref(key_service).cast::<()>().addr(), fingerprint);
        let mut running = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        Waiter { calls: self, id, call: running.entry(id).or_default().clone() }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Waiter<'_> {
    pub(super) fn call(&self) -> &Call {
        &self.call
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut running = self.calls.table.lock().unwrap_or_else(PoisonError::into_inner);
        // Two references are left: the table's and ours. So nobody else waits.
        if Arc::strong_count(&self.call) <= 2 {
            running.remove(&self.id);
        }
    }
}
