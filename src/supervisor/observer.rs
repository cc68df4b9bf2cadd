//! Watches one key service: reads the key's versions, tries a round trip, and tells what it saw.
//!
//! Owns time and I/O, judges nothing: the events go to the state machine. While the service is away only
//! its unauthenticated health is asked.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::phase::Event;
use super::publisher::{Message, Place};
use crate::backend::{Backend, BackendError, ErrorKind};
use crate::clock::Deadline;
use crate::config::settings::Health;
use crate::retry::{Backoff, spread};

/// Time for one background call.
const CALL: Duration = Duration::from_secs(3);
/// Time for one look at a service that is away.
const LOOK: Duration = Duration::from_millis(1500);
/// How often a service that is away is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(1200);
/// Between the two times that a refusal is asked for.
const CONFIRM_AFTER: Duration = Duration::from_secs(5);
/// Soon, for a read that may have met a lagging replica.
const SOON: Duration = Duration::from_secs(5);

/// The observer of one key service.
pub(super) struct Observer {
    pub place: Place,
    pub backend: Arc<dyn Backend>,
    pub health: Health,
    pub messages: mpsc::Sender<Message>,
    /// Requests for a read ahead of time.
    pub requests: mpsc::Receiver<oneshot::Sender<()>>,
}

/// What the last checks left behind.
struct Watch {
    /// The version that round trips use: the newest that was read.
    version: u32,
    read_at: Instant,
    trip_at: Instant,
    /// The last read said that there is no such key: nothing is wrapped, since that could make one.
    missing: bool,
    /// The kind of the last fault, if the last check failed.
    fault: Option<ErrorKind>,
    soon: Backoff,
    refused: Backoff,
}

impl Observer {
    /// Watches for ever.
    pub(super) async fn run(mut self) {
        let now = Instant::now();
        let mut watch = Watch {
            version: 0,
            read_at: now,
            trip_at: now,
            missing: false,
            fault: None,
            soon: Backoff::new(Duration::from_millis(200), Duration::from_secs(1)),
            refused: Backoff::new(Duration::from_secs(5), Duration::from_secs(30)),
        };
        loop {
            let due = watch.read_at.min(watch.trip_at);
            tokio::select! {
                () = tokio::time::sleep_until(due) => self.check(&mut watch).await,
                Some(done) = self.requests.recv() => {
                    self.read(&mut watch).await;
                    let _gone = done.send(());
                }
            }
        }
    }

    async fn check(&self, watch: &mut Watch) {
        let away =
            matches!(watch.fault, Some(ErrorKind::Unreachable | ErrorKind::Sealed | ErrorKind::Deadline));
        if away && let Err(error) = self.backend.reachable(Deadline::after(LOOK)).await {
            self.trip_failed(watch, error, false).await;
            let next = Instant::now() + spread(LOOK_EVERY);
            (watch.read_at, watch.trip_at) = (next, next);
            return;
        }
        let again = watch.fault.is_some();
        if again || Instant::now() >= watch.read_at {
            self.read(watch).await;
        }
        let readable = watch.version > 0 && !watch.missing;
        if self.place == Place::Primary && readable && (again || Instant::now() >= watch.trip_at) {
            self.try_round_trip(watch).await;
        }
        self.plan(watch);
    }

    /// When to look next: by the intervals when all is well, else sooner, by the kind of the fault.
    fn plan(&self, watch: &mut Watch) {
        let now = Instant::now();
        match watch.fault {
            None => {
                watch.soon.reset();
                watch.refused.reset();
                if self.place != Place::Primary {
                    watch.trip_at = watch.read_at;
                }
            }
            Some(kind) => {
                // Refused credentials are not sent again until they change: asking costs nothing.
                let local = matches!(kind, ErrorKind::CredentialsRefused | ErrorKind::CredentialsUnreadable);
                let delay = match kind.is_outage() || local {
                    true => watch.soon.next_delay(),
                    false => watch.refused.next_delay(),
                };
                (watch.read_at, watch.trip_at) = (now + delay, now + delay);
            }
        }
    }

    async fn read(&self, watch: &mut Watch) {
        watch.read_at = Instant::now() + spread(self.health.key_check_interval);
        match self.backend.describe(watch.version, Deadline::after(CALL)).await {
            Ok(description) => {
                watch.missing = false;
                if self.place != Place::Primary {
                    watch.fault = None;
                }
                let latest = description.latest;
                let again = self.tell(Event::Described(description)).await;
                if again {
                    watch.read_at = Instant::now() + spread(SOON.min(self.health.key_check_interval));
                }
                watch.version = watch.version.max(latest);
                // A key that is older than it was: the round trip uses what is there.
                if latest < watch.version && !again {
                    watch.version = latest;
                }
            }
            Err(error) => {
                watch.missing = error.kind() == ErrorKind::NotFound;
                self.tell(Event::DescribeFailed(error.clone())).await;
                if self.place != Place::Primary {
                    watch.fault = Some(error.kind());
                } else if watch.version == 0 || watch.missing {
                    // Nothing to try a round trip with: the read's failure is all there is.
                    self.judge(watch, error, None).await;
                }
            }
        }
    }

    async fn try_round_trip(&self, watch: &mut Watch) {
        watch.trip_at = Instant::now() + spread(self.health.probe_interval);
        match self.round_trip(watch.version).await {
            Ok(()) => {
                watch.fault = None;
                self.tell(Event::RoundTrip).await;
            }
            Err(error) if error.kind() == ErrorKind::VersionAhead => {
                // Another node's agent would not pin a version that is gone: read what is there now.
                watch.fault = Some(ErrorKind::VersionAhead);
                self.read(watch).await;
                watch.trip_at = watch.read_at;
            }
            Err(error) if error.kind().is_outage() => self.trip_failed(watch, error, false).await,
            Err(error) => {
                // Where only wrapping is allowed, a missing key is refused like a missing right: the read
                // tells them apart, and judges a missing key itself.
                self.read(watch).await;
                if !watch.missing {
                    self.judge(watch, error, Some(watch.version)).await;
                }
            }
        }
    }

    /// Tells an outage as it is, and asks again before a refusal is believed: with a wrap under `version`,
    /// or with a read.
    async fn judge(&self, watch: &mut Watch, error: BackendError, version: Option<u32>) {
        if error.kind().is_outage() || error.kind() == ErrorKind::CredentialsUnreadable {
            return self.trip_failed(watch, error, false).await;
        }
        if error.kind() == ErrorKind::KeyUnusable {
            return self.trip_failed(watch, error, true).await;
        }
        let was_refused = watch.fault.is_some_and(|kind| !kind.is_outage());
        let mut last = error;
        for pause in [Duration::ZERO, CONFIRM_AFTER] {
            if !was_refused {
                self.trip_failed(watch, last.clone(), false).await;
            }
            tokio::time::sleep(pause).await;
            match self.backend.confirm(version, Deadline::after(CALL * 2)).await {
                Ok(()) => {
                    // An address serves: the next round trip finds it.
                    watch.trip_at = Instant::now();
                    watch.fault = Some(ErrorKind::Unreachable);
                    return;
                }
                Err(error) if error.kind().is_outage() => return self.trip_failed(watch, error, false).await,
                Err(error) => last = error,
            }
        }
        self.trip_failed(watch, last, true).await;
    }

    async fn trip_failed(&self, watch: &mut Watch, error: BackendError, confirmed: bool) {
        watch.fault = Some(error.kind());
        match self.place {
            Place::Primary => self.tell(Event::RoundTripFailed { error, confirmed }).await,
            Place::DecryptOnly(_) => self.tell(Event::DescribeFailed(error)).await,
        };
    }

    async fn round_trip(&self, version: u32) -> Result<(), BackendError> {
        let internal =
            |text: &'static str| BackendError::new(ErrorKind::Internal, text, "report this as a bug");
        let mut seed = Zeroizing::new([0; 32]);
        rand::fill(&mut *seed).map_err(|_| internal("the system gives no random bytes"))?;
        let deadline = Deadline::after(CALL);
        let wrapped = self.backend.wrap(version, &*seed, deadline).await?;
        let unwrapped = self.backend.unwrap(&wrapped, deadline).await?;
        if *unwrapped == *seed && wrapped != *seed {
            Ok(())
        } else {
            Err(BackendError::new(
                ErrorKind::KeyUnusable,
                "a round trip gave other bytes back than were wrapped",
                "stop writing Secrets, and look at the key service: it is not what it should be",
            ))
        }
    }

    /// Tells an event and waits until it is published. True when a read should be repeated soon.
    async fn tell(&self, event: Event) -> bool {
        let (done, published) = oneshot::channel();
        let message = Message { place: self.place, event, done: Some(done) };
        if self.messages.send(message).await.is_err() {
            return false;
        }
        published.await.unwrap_or(false)
    }
}
