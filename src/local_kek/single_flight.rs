//! The list of unwraps that are running: callers that need the same key share one call to the key service.
//! kube-apiserver from 1.37 on decodes ten objects at once, and so asks ten times for one seed when it starts.
//!
//! Must not know what is called or what is done with the result.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use super::record::KeyKind;
use crate::key_service::{KeyService, KeyServiceError};

/// The running unwraps: a few, and never more than `server.max_in_flight`. To go through them costs less than a hash.
#[derive(Default)]
pub(super) struct Calls {
    running: Mutex<Vec<Arc<Call>>>,
}

/// A running unwrap. The caller that holds the lock calls the key service, and stores the result for the waiters.
struct Call {
    id: Vec<u8>,
    /// Changed under the lock of the list only: so whoever leaves last removes the call, and nobody joins it after that.
    waiters: AtomicUsize,
    result: tokio::sync::Mutex<Option<Unwrapped>>,
}

/// The result of a call.
type Unwrapped = Result<Zeroizing<Vec<u8>>, KeyServiceError>;

/// One of the callers that need the same key. The last one to be dropped removes the call from the list.
pub(super) struct Waiter<'a> {
    calls: &'a Calls,
    call: Arc<Call>,
}

impl Calls {
    /// Joins the running call for this wrapped key, or starts one.
    pub(super) fn join(
        &self,
        key_service: &dyn KeyService,
        kind: KeyKind,
        key_id: &str,
        wrapped: &[u8],
    ) -> Waiter<'_> {
        let id = id(key_service, kind, key_id, wrapped);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let call = match running.iter().find(|call| call.id == id) {
            Some(call) => call.clone(),
            None => {
                let waiters = AtomicUsize::new(0);
                let call = Arc::new(Call { id, waiters, result: tokio::sync::Mutex::default() });
                running.push(call.clone());
                call
            }
        };
        call.waiters.fetch_add(1, Ordering::Relaxed);
        Waiter { calls: self, call }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// The id of a call: the key service, by its address in memory, and the wrapped key. Two key services may know the same
/// key_id, and the result of one is not the result of the other. To hash all that with SHA-256 would take longer.
fn id(key_service: &dyn KeyService, kind: KeyKind, key_id: &str, wrapped: &[u8]) -> Vec<u8> {
    let service = std::ptr::from_ref(key_service).cast::<()>().addr();
    let mut id = Vec::with_capacity(2 * size_of::<usize>() + 1 + key_id.len() + wrapped.len());
    id.extend_from_slice(&service.to_ne_bytes());
    id.extend_from_slice(&key_id.len().to_ne_bytes());
    id.push(u8::from(kind == KeyKind::Seed));
    id.extend_from_slice(key_id.as_bytes());
    id.extend_from_slice(wrapped);
    id
}

impl Waiter<'_> {
    /// The result of the call, once nobody else makes it.
    pub(super) fn result(&self) -> &tokio::sync::Mutex<Option<Unwrapped>> {
        &self.call.result
    }

    /// Whether others wait for the result.
    pub(super) fn is_shared(&self) -> bool {
        self.call.waiters.load(Ordering::Relaxed) > 1
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut running = self.calls.running.lock().unwrap_or_else(PoisonError::into_inner);
        if self.call.waiters.fetch_sub(1, Ordering::Relaxed) == 1 {
            running.retain(|call| !Arc::ptr_eq(call, &self.call));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::EmbeddedService;

    /// Waits until both callers are here. They do not sleep, since they must leave at the same moment.
    fn meet(arrived: &AtomicUsize, round: usize) {
        arrived.fetch_add(1, Ordering::SeqCst);
        while arrived.load(Ordering::SeqCst) < 2 * round {
            std::thread::yield_now();
        }
    }

    /// Once two who left at the same moment each took the other one for the last.
    #[test]
    fn whoever_leaves_last_removes_the_call() {
        let directory = tempfile::tempdir().unwrap();
        let key_service = EmbeddedService::open(directory.path().join("keyring")).unwrap();
        let (calls, arrived, left_over) = (Calls::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| {
                    for round in 0..200_000 {
                        let waiter = calls.join(&key_service, KeyKind::Seed, "v1.a", b"wrapped");
                        meet(&arrived, 3 * round + 1);
                        drop(waiter);
                        meet(&arrived, 3 * round + 2);
                        // Counted: after a panic the other caller would wait for ever.
                        left_over.fetch_add(usize::from(!calls.is_empty()), Ordering::SeqCst);
                        meet(&arrived, 3 * round + 3);
                    }
                });
            }
        });
        assert_eq!(left_over.into_inner(), 0);
    }
}
