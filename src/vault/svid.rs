//! The X.509-SVID that is the client certificate: fetched before a login, followed while the agent runs.
//!
//! Must not know what the certificate is used for. A new SVID is used for new connections only when the client is told to
//! build them: `is_new` says when.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;

use crate::clock::Deadline;
use crate::config::spiffe::Spiffe;
use crate::retry::Backoff;
use crate::secret::{Fingerprint, Secret};
use crate::spiffe::{SpiffeError, WorkloadApi, X509Svid};

/// Time for the first answer of the API.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest and longest time until the API is asked again after it failed.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The current SVID, if the client certificate is one.
pub(super) struct SvidSource {
    api: WorkloadApi,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Arc<X509Svid>>,
    /// Whether no connection uses the current one yet.
    is_new: bool,
}

impl SvidSource {
    pub(super) fn new(spiffe: &Spiffe) -> Self {
        Self { api: WorkloadApi::new(&spiffe.socket, spiffe.id.as_deref()), state: Mutex::default() }
    }

    /// Whether no connection uses the current SVID yet.
    pub(super) fn is_new(&self) -> bool {
        self.lock().is_new
    }

    /// The SVID, if there is one yet.
    pub(super) fn held(&self) -> Option<Arc<X509Svid>> {
        self.lock().current.clone()
    }

    /// Records that connections use this SVID. Another may have come meanwhile.
    pub(super) fn is_used(&self, svid: &Arc<X509Svid>) {
        let mut state = self.lock();
        if state.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, svid)) {
            state.is_new = false;
        }
    }

    /// A hash of the current certificate, which is public.
    pub(super) async fn fingerprint(&self) -> Result<Fingerprint, SpiffeError> {
        let svid = self.current(Deadline::after(TIMEOUT)).await?;
        let certificate = svid.chain.first().map(|certificate| HEXLOWER.encode(certificate));
        Ok(Secret::new(certificate.unwrap_or_default()).fingerprint())
    }

    /// The SVID; asks for it when there is none.
    pub(super) async fn current(&self, deadline: Deadline) -> Result<Arc<X509Svid>, SpiffeError> {
        let current = self.lock().current.clone();
        match current {
            Some(svid) => Ok(svid),
            None => Ok(self.set(self.api.x509_svid(deadline).await?)),
        }
    }

    /// Follows the SVID, so that a new one is known before the old one expires. Never returns.
    pub(super) async fn follow(&self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let error = match self.api.x509_svids(Deadline::after(TIMEOUT)).await {
                Err(error) => error,
                Ok(mut svids) => loop {
                    match svids.next().await {
                        Ok(svid) => {
                            backoff.reset();
                            self.set(svid);
                        }
                        Err(error) => break error,
                    }
                },
            };
            // A login that needs the SVID reports it to people. Here the old one is still in use.
            tracing::debug!("{error}; retrying");
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    fn set(&self, svid: X509Svid) -> Arc<X509Svid> {
        let mut state = self.lock();
        if let Some(current) = state.current.as_ref().filter(|current| ***current == svid) {
            return current.clone();
        }
        tracing::info!("the X.509-SVID of {} is used as the client certificate", svid.id);
        let svid = Arc::new(svid);
        (state.current, state.is_new) = (Some(svid.clone()), true);
        svid
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
