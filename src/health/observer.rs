//! Observes one key service: reads the key's versions, probes it with a round trip, and reports the results.
//!
//! Does the I/O and plans the checks; the state machine judges the results. While a service cannot be reached, the
//! observer calls only its health endpoint, which needs no login.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::checks::Checks;
use super::event::Event;
use super::publisher::{Message, ServiceId};
use super::reasons::is_refusal;
use super::timing::{
    CALL_TIMEOUT, CONFIRMATION_PAUSE, CONFIRMATION_TIMEOUT, REACHABILITY_INTERVAL, REACHABILITY_TIMEOUT,
    REPEAT_READ_DELAY,
};
use crate::clock::Deadline;
use crate::config::settings::Health;
use crate::key_service::{ErrorKind, KeyService, KeyServiceError};
use crate::local_kek::KeyCheck;
use crate::retry::spread;

/// The observer of one key service.
pub(crate) struct Observer {
    pub id: ServiceId,
    pub key_service: Arc<dyn KeyService>,
    pub health: Health,
    /// To the owner of the state.
    pub messages: mpsc::Sender<Message>,
    /// The key version that an earlier run saved; 0 without one.
    pub saved_version: u32,
    /// Requests to read the key now; answered when the result is published.
    pub read_requests: mpsc::Receiver<oneshot::Sender<()>>,
    /// Notified when the result of a call does not fit the state.
    pub recheck_hints: Arc<Notify>,
    /// Checks that a key fits local KEKs; `None` while they are off.
    pub key_check: Option<KeyCheck>,
}

impl Observer {
    /// Checks the key service for ever.
    pub(crate) async fn run(mut self) {
        let mut checks = Checks::new(self.saved_version);
        let started = checks.next_read;
        loop {
            let due = match self.id {
                ServiceId::Primary => checks.next_read.min(checks.next_probe),
                ServiceId::DecryptOnly(_) => checks.next_read,
            };
            tokio::select! {
                biased;
                () = self.recheck_hints.notified() => checks.plan_recheck(started),
                Some(request) = self.read_requests.recv() => {
                    // One read answers all requests that are waiting.
                    let mut waiting = vec![request];
                    while let Ok(request) = self.read_requests.try_recv() {
                        waiting.push(request);
                    }
                    self.read(&mut checks).await;
                    for request in waiting {
                        let _gone = request.send(());
                    }
                }
                () = tokio::time::sleep_until(due) => self.check(&mut checks).await,
            }
        }
    }

    async fn check(&self, checks: &mut Checks) {
        if checks.is_unreachable()
            && let Err(error) = self.key_service.reachable(Deadline::after(REACHABILITY_TIMEOUT)).await
        {
            self.report(checks, error, false).await;
            let next = Instant::now() + spread(REACHABILITY_INTERVAL);
            (checks.next_read, checks.next_probe) = (next, next);
            return;
        }
        if checks.probe_error.is_some() || Instant::now() >= checks.next_read {
            self.read(checks).await;
        }
        if self.id == ServiceId::Primary
            && (checks.probe_error.is_some() || Instant::now() >= checks.next_probe)
        {
            match checks.read_error.clone() {
                // There is no version to wrap with: only the error of the read can be reported.
                Some(error) if checks.version == 0 || checks.key_is_missing() => {
                    self.report_or_confirm(checks, error, None).await;
                }
                _ => self.probe(checks).await,
            }
        }
        if let (ServiceId::DecryptOnly(_), Some(error)) = (self.id, checks.read_error.clone())
            && self.key_check.is_some()
            && is_refusal(&error)
            && !checks.refusal_confirmed
        {
            self.confirm_read_refusal(checks).await;
        }
        checks.plan_after_failure(self.id);
    }

    /// Confirms the refusal of a key service that only unwraps: repeats the read, and then tries every address.
    async fn confirm_read_refusal(&self, checks: &mut Checks) {
        tokio::time::sleep(CONFIRMATION_PAUSE).await;
        self.read(checks).await;
        let again = checks.read_error.clone().filter(is_refusal);
        let Some(error) = again else { return };
        // A policy may allow reading and not unwrapping. Then a read that works does not disprove the refusal.
        let confirmed = match self.key_service.confirm(None, Deadline::after(CONFIRMATION_TIMEOUT)).await {
            Ok(()) => error.kind() == ErrorKind::Denied,
            Err(error) => is_refusal(&error),
        };
        if confirmed {
            checks.refusal_confirmed = true;
            self.send(Event::RoundTripFailed { error, confirmed }).await;
        }
    }

    /// The intervals of reads and of probes. They are shorter with local KEKs: then the calls of the API server do
    /// not reach the key service, and do not show a refusal. A refusal must be confirmed within one configured probe
    /// interval, and the confirmation takes a part of it.
    fn intervals(&self) -> (Duration, Duration) {
        let (read, probe) = (self.health.key_check_interval, self.health.probe_interval);
        match self.key_check {
            Some(_) => (read.min(probe * 2 / 3), probe * 2 / 3),
            None => (read, probe),
        }
    }

    /// Reads the key's versions and reports them.
    async fn read(&self, checks: &mut Checks) {
        checks.next_read = Instant::now() + spread(self.intervals().0);
        let mut described = self.key_service.describe(checks.version, Deadline::after(CALL_TIMEOUT)).await;
        let mut complete = true;
        if let (Ok(key), Some(key_check)) = (&mut described, &self.key_check) {
            match self.id {
                ServiceId::Primary => {
                    complete = key_check.prepare(self.key_service.as_ref(), key, checks.version).await;
                }
                ServiceId::DecryptOnly(_) => {
                    let unwraps = key_check.try_unwrap(self.key_service.as_ref(), key).await;
                    described = unwraps.and(described);
                }
            }
        }
        match described {
            Ok(description) => {
                checks.read_error = None;
                checks.refusal_confirmed &= self.id == ServiceId::Primary;
                let latest = description.latest;
                let may_lag = self.send(Event::Described(description)).await;
                if may_lag || !complete {
                    let delay = REPEAT_READ_DELAY.min(self.health.key_check_interval);
                    checks.next_read = Instant::now() + spread(delay);
                }
                // A lower version may be that of a lagging replica. It is used only when the rollback is confirmed.
                if !may_lag || latest > checks.version {
                    checks.version = latest;
                }
            }
            Err(error) => self.report_read_error(checks, error).await,
        }
    }

    async fn report_read_error(&self, checks: &mut Checks, error: KeyServiceError) {
        // The next probe is due at once: it shows whether wrapping fails, too.
        checks.next_probe = Instant::now();
        checks.read_error = Some(error.clone());
        self.send(Event::DescribeFailed(error)).await;
    }

    /// Tries a round trip and reports its result.
    async fn probe(&self, checks: &mut Checks) {
        checks.next_probe = Instant::now() + spread(self.intervals().1);
        match self.round_trip(checks.version).await {
            Ok(()) => {
                checks.probe_error = None;
                checks.refusal_confirmed = false;
                self.send(Event::RoundTripSucceeded).await;
            }
            Err(error) if error.is_outage() => self.report(checks, error, false).await,
            Err(error) if error.kind() == ErrorKind::VersionAhead => {
                // A rollback, or a lagging replica: a read shows which.
                self.report(checks, error, false).await;
                self.read(checks).await;
            }
            Err(error) => {
                // Where the policy allows only wrapping, a missing key and a missing right give the same error. A
                // read shows which it is.
                self.read(checks).await;
                let version = (!checks.key_is_missing()).then_some(checks.version);
                let error = checks.read_error.clone().filter(|_| version.is_none()).unwrap_or(error);
                self.report_or_confirm(checks, error, version).await;
            }
        }
    }

    /// Reports an outage at once, and a refusal as confirmed only after it was repeated: with a wrap under `version`,
    /// or with a read.
    async fn report_or_confirm(&self, checks: &mut Checks, error: KeyServiceError, version: Option<u32>) {
        if error.is_outage() {
            return self.report(checks, error, false).await;
        }
        if matches!(error.kind(), ErrorKind::KeyUnusable | ErrorKind::SoftDeleted) {
            return self.report(checks, error, true).await;
        }
        let mut last = error;
        let pauses: &[Duration] = match checks.refusal_confirmed {
            true => &[Duration::ZERO],
            false => &[Duration::ZERO, CONFIRMATION_PAUSE],
        };
        for pause in pauses {
            self.report(checks, last.clone(), checks.refusal_confirmed).await;
            tokio::time::sleep(*pause).await;
            match self.key_service.confirm(version, Deadline::after(CONFIRMATION_TIMEOUT)).await {
                // One address works: the next probe uses it.
                Ok(()) => {
                    checks.probe_error = None;
                    checks.next_probe = Instant::now();
                    return;
                }
                Err(error) if error.is_outage() => return self.report(checks, error, false).await,
                Err(error) => last = error,
            }
        }
        checks.refusal_confirmed = true;
        self.report(checks, last, true).await;
    }

    async fn report(&self, checks: &mut Checks, error: KeyServiceError, confirmed: bool) {
        checks.refusal_confirmed &= !error.is_outage();
        match self.id {
            ServiceId::Primary => {
                checks.probe_error = Some(error.clone());
                self.send(Event::RoundTripFailed { error, confirmed }).await;
            }
            ServiceId::DecryptOnly(_) => self.report_read_error(checks, error).await,
        }
    }

    async fn round_trip(&self, version: u32) -> Result<(), KeyServiceError> {
        let internal =
            |text: &'static str| KeyServiceError::new(ErrorKind::Internal, text, "report this as a bug");
        let mut seed = Zeroizing::new([0; 32]);
        rand::fill(&mut *seed).map_err(|_| internal("the system gives no random bytes"))?;
        let deadline = Deadline::after(CALL_TIMEOUT);
        let wrapped = self.key_service.wrap(version, &*seed, &[], deadline).await?;
        let unwrapped = self.key_service.unwrap(&wrapped, &[], deadline).await?;
        if *unwrapped == *seed && wrapped != *seed {
            Ok(())
        } else {
            Err(KeyServiceError::new(
                ErrorKind::KeyUnusable,
                "a round trip returned other bytes than were wrapped",
                "stop writing Secrets, and check the key service: it does not encrypt as it should",
            ))
        }
    }

    /// Sends an event and waits until its result is published. True when a read should be repeated soon.
    async fn send(&self, event: Event) -> bool {
        let (done, published) = oneshot::channel();
        let message = Message { service: self.id, event, done: Some(done) };
        if self.messages.send(message).await.is_err() {
            return false;
        }
        published.await.unwrap_or(false)
    }
}
