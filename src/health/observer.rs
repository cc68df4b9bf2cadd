//! Watches one key service: reads the key's versions, tries a round trip, and tells what it saw.
//!
//! Owns time and I/O, judges nothing: the events go to the state machine. While the service is away only
//! its unauthenticated health is asked.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::phase::Event;
use super::publisher::{Message, ServiceId};
use super::reasons::is_refusal;
use crate::clock::Deadline;
use crate::config::settings::Health;
use crate::key_service::{ErrorKind, KeyService, KeyServiceError};
use crate::local_kek::KeyCheck;
use crate::retry::{Backoff, spread};

/// Time for one background call.
const CALL: Duration = Duration::from_secs(3);
/// Time for one look at a service that is away.
const LOOK: Duration = Duration::from_millis(1500);
/// How often a service that is away is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(1700);
/// Between the two times that a refusal is asked for.
const CONFIRM_AFTER: Duration = Duration::from_secs(5);
/// Least time between two looks because of recheck_hints, however many calls are refused.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Soon, for a read that may have met a lagging replica.
const SOON: Duration = Duration::from_secs(5);

/// The observer of one key service.
pub(crate) struct Observer {
    pub id: ServiceId,
    pub key_service: Arc<dyn KeyService>,
    pub health: Health,
    pub messages: mpsc::Sender<Message>,
    /// The version that an earlier run knew; 0 without one.
    pub version: u32,
    /// Requests for a read ahead of time.
    pub requests: mpsc::Receiver<oneshot::Sender<()>>,
    /// Calls that went otherwise than the state lets expect.
    pub recheck_hints: Arc<Notify>,
    /// What it takes to look after local KEKs; `None` without them.
    pub local: Option<KeyCheck>,
}

/// What the last checks left behind.
struct Watch {
    /// The version that round trips use: the newest that was read, or that an earlier run knew.
    version: u32,
    read_at: Instant,
    trip_at: Instant,
    /// When a recheck was looked into last.
    rechecked_at: Option<Instant>,
    /// What the last read and the last round trip failed with.
    read_fault: Option<KeyServiceError>,
    trip_fault: Option<KeyServiceError>,
    /// The last refusal was asked for twice already.
    confirmed: bool,
    soon: Backoff,
    refused: Backoff,
}

impl Watch {
    /// The last read said that there is no such key: nothing is wrapped, since that could make one.
    fn missing(&self) -> bool {
        self.read_fault.as_ref().is_some_and(|error| error.kind() == ErrorKind::NotFound)
    }

    fn is_away(&self) -> bool {
        let away = |error: &KeyServiceError| {
            matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Sealed | ErrorKind::Deadline)
        };
        [&self.read_fault, &self.trip_fault].into_iter().flatten().any(away)
    }
}

impl Observer {
    /// Watches for ever.
    pub(crate) async fn run(mut self) {
        let now = Instant::now();
        let mut watch = Watch {
            version: self.version,
            read_at: now,
            trip_at: now,
            rechecked_at: None,
            read_fault: None,
            trip_fault: None,
            confirmed: false,
            soon: Backoff::new(Duration::from_millis(200), Duration::from_secs(1)),
            refused: Backoff::new(Duration::from_secs(5), Duration::from_secs(30)),
        };
        loop {
            let due = match self.id {
                ServiceId::Primary => watch.read_at.min(watch.trip_at),
                ServiceId::DecryptOnly(_) => watch.read_at,
            };
            tokio::select! {
                () = tokio::time::sleep_until(due) => self.check(&mut watch).await,
                () = self.recheck_hints.notified() => {
                    let soon = watch.rechecked_at.map_or(now, |at| at + RECHECK_INTERVAL).max(Instant::now());
                    // Those that come before a look that is planned anyway do not put off the next.
                    if soon < watch.trip_at {
                        watch.trip_at = soon;
                        watch.rechecked_at = Some(soon);
                    }
                }
                Some(done) = self.requests.recv() => {
                    // One read for all who asked meanwhile.
                    let mut waiting = vec![done];
                    while let Ok(done) = self.requests.try_recv() {
                        waiting.push(done);
                    }
                    self.read(&mut watch).await;
                    for done in waiting {
                        let _gone = done.send(());
                    }
                }
            }
        }
    }

    async fn check(&self, watch: &mut Watch) {
        if watch.is_away()
            && let Err(error) = self.key_service.reachable(Deadline::after(LOOK)).await
        {
            self.failed(watch, error, false).await;
            let next = Instant::now() + spread(LOOK_EVERY);
            (watch.read_at, watch.trip_at) = (next, next);
            return;
        }
        if watch.trip_fault.is_some() || Instant::now() >= watch.read_at {
            self.read(watch).await;
        }
        if self.id == ServiceId::Primary && (watch.trip_fault.is_some() || Instant::now() >= watch.trip_at) {
            match watch.read_fault.clone() {
                // Nothing to wrap with: the read's failure is all there is.
                Some(error) if watch.version == 0 || watch.missing() => self.judge(watch, error, None).await,
                _ => self.try_round_trip(watch).await,
            }
        }
        if let (ServiceId::DecryptOnly(_), Some(error)) = (self.id, watch.read_fault.clone())
            && self.local.is_some()
            && is_refusal(&error)
            && !watch.confirmed
        {
            self.confirm_read(watch).await;
        }
        self.plan(watch);
    }

    /// A key service that only unwraps refuses: it is asked again, at every address, before that is believed.
    async fn confirm_read(&self, watch: &mut Watch) {
        tokio::time::sleep(CONFIRM_AFTER).await;
        self.read(watch).await;
        let again = watch.read_fault.clone().filter(is_refusal);
        let Some(error) = again else { return };
        // Where reading is allowed and unwrapping is not, the reads of all addresses say nothing.
        let confirmed = match self.key_service.confirm(None, Deadline::after(CALL * 2)).await {
            Ok(()) => error.kind() == ErrorKind::Denied,
            Err(error) => is_refusal(&error),
        };
        if confirmed {
            watch.confirmed = true;
            self.tell(Event::RoundTripFailed { error, confirmed }).await;
        }
    }

    /// When to look again: by the intervals when all is well, else sooner, by the kind of the fault.
    fn plan(&self, watch: &mut Watch) {
        // A key that may not be read, while wrapping works, waits for its interval.
        let pressing = match self.id {
            ServiceId::Primary => {
                watch.trip_fault.clone().or(watch.read_fault.clone().filter(KeyServiceError::is_outage))
            }
            ServiceId::DecryptOnly(_) => watch.read_fault.clone(),
        };
        let Some(error) = pressing else {
            watch.soon.reset();
            watch.refused.reset();
            return;
        };
        // Refused credentials are not sent again until they change: asking costs nothing.
        let quick = match error.kind() {
            ErrorKind::CredentialsRefused | ErrorKind::CredentialsUnreadable => true,
            ErrorKind::Throttled => false,
            kind => kind.is_outage(),
        };
        let delay = if quick { watch.soon.next_delay() } else { watch.refused.next_delay() };
        let next = Instant::now() + delay.max(error.retry_after().unwrap_or_default());
        (watch.read_at, watch.trip_at) = (next, next);
    }

    /// Between two reads, and between two round trips. With local KEKs no call shows a refusal, and it must be
    /// believed within one probe interval: confirming it takes its time.
    fn intervals(&self) -> (Duration, Duration) {
        let (read, trip) = (self.health.key_check_interval, self.health.probe_interval);
        match self.local {
            Some(_) => (read.min(trip * 2 / 3), trip * 2 / 3),
            None => (read, trip),
        }
    }

    async fn read(&self, watch: &mut Watch) {
        watch.read_at = Instant::now() + spread(self.intervals().0);
        let mut described = self.key_service.describe(watch.version, Deadline::after(CALL)).await;
        let mut whole = true;
        if let (Ok(key), Some(local)) = (&mut described, &self.local) {
            match self.id {
                ServiceId::Primary => {
                    whole = local.prepare(self.key_service.as_ref(), key, watch.version).await
                }
                ServiceId::DecryptOnly(_) => {
                    let unwraps = local.try_unwrap(self.key_service.as_ref(), key).await;
                    described = unwraps.and(described);
                }
            }
        }
        match described {
            Ok(description) => {
                watch.read_fault = None;
                watch.confirmed &= self.id == ServiceId::Primary;
                let latest = description.latest;
                let again = self.tell(Event::Described(description)).await;
                if again || !whole {
                    watch.read_at = Instant::now() + spread(SOON.min(self.health.key_check_interval));
                }
                // A lagging replica's version is not taken; one that is older for good is.
                if !again || latest > watch.version {
                    watch.version = latest;
                }
            }
            Err(error) => {
                // Whether only reading is lost shows in a round trip: it is tried at once.
                watch.trip_at = Instant::now();
                watch.read_fault = Some(error.clone());
                self.tell(Event::DescribeFailed(error)).await;
            }
        }
    }

    async fn try_round_trip(&self, watch: &mut Watch) {
        watch.trip_at = Instant::now() + spread(self.intervals().1);
        match self.round_trip(watch.version).await {
            Ok(()) => {
                watch.trip_fault = None;
                watch.confirmed = false;
                self.tell(Event::RoundTrip).await;
            }
            Err(error) if error.is_outage() => self.failed(watch, error, false).await,
            Err(error) if error.kind() == ErrorKind::VersionAhead => {
                // Rolled back, or a replica that lags: the reads decide.
                self.failed(watch, error, false).await;
                self.read(watch).await;
            }
            Err(error) => {
                // Where only wrapping is allowed, a missing key is refused like a missing right: the read
                // tells them apart.
                self.read(watch).await;
                let version = (!watch.missing()).then_some(watch.version);
                let error = watch.read_fault.clone().filter(|_| version.is_none()).unwrap_or(error);
                self.judge(watch, error, version).await;
            }
        }
    }

    /// Tells an outage as it is, and asks again before a refusal is believed: with a wrap under `version`,
    /// or with a read.
    async fn judge(&self, watch: &mut Watch, error: KeyServiceError, version: Option<u32>) {
        if error.is_outage() {
            return self.failed(watch, error, false).await;
        }
        if matches!(error.kind(), ErrorKind::KeyUnusable | ErrorKind::SoftDeleted) {
            return self.failed(watch, error, true).await;
        }
        let mut last = error;
        let pauses: &[Duration] =
            if watch.confirmed { &[Duration::ZERO] } else { &[Duration::ZERO, CONFIRM_AFTER] };
        for pause in pauses {
            self.failed(watch, last.clone(), watch.confirmed).await;
            tokio::time::sleep(*pause).await;
            match self.key_service.confirm(version, Deadline::after(CALL * 2)).await {
                // An address serves: the next round trip finds it.
                Ok(()) => {
                    watch.trip_fault = None;
                    watch.trip_at = Instant::now();
                    return;
                }
                Err(error) if error.is_outage() => return self.failed(watch, error, false).await,
                Err(error) => last = error,
            }
        }
        watch.confirmed = true;
        self.failed(watch, last, true).await;
    }

    async fn failed(&self, watch: &mut Watch, error: KeyServiceError, confirmed: bool) {
        watch.confirmed &= !error.is_outage();
        match self.id {
            ServiceId::Primary => {
                watch.trip_fault = Some(error.clone());
                self.tell(Event::RoundTripFailed { error, confirmed }).await;
            }
            ServiceId::DecryptOnly(_) => {
                // Whether only reading is lost shows in a round trip: it is tried at once.
                watch.trip_at = Instant::now();
                watch.read_fault = Some(error.clone());
                self.tell(Event::DescribeFailed(error)).await;
            }
        }
    }

    async fn round_trip(&self, version: u32) -> Result<(), KeyServiceError> {
        let internal =
            |text: &'static str| KeyServiceError::new(ErrorKind::Internal, text, "report this as a bug");
        let mut seed = Zeroizing::new([0; 32]);
        rand::fill(&mut *seed).map_err(|_| internal("the system gives no random bytes"))?;
        let deadline = Deadline::after(CALL);
        let wrapped = self.key_service.wrap(version, &*seed, &[], deadline).await?;
        let unwrapped = self.key_service.unwrap(&wrapped, &[], deadline).await?;
        if *unwrapped == *seed && wrapped != *seed {
            Ok(())
        } else {
            Err(KeyServiceError::new(
                ErrorKind::KeyUnusable,
                "a round trip gave other bytes back than were wrapped",
                "stop writing Secrets, and look at the key service: it is not what it should be",
            ))
        }
    }

    /// Tells an event and waits until it is published. True when a read should be repeated soon.
    async fn tell(&self, event: Event) -> bool {
        let (done, published) = oneshot::channel();
        let message = Message { service: self.id, event, done: Some(done) };
        if self.messages.send(message).await.is_err() {
            return false;
        }
        published.await.unwrap_or(false)
    }
}
