//! Owns the state, publishes the snapshot, and tells the log of each change. The only
//! writer: whoever renders the snapshot says the same as all others.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::identity::IdentityFile;
use super::phase::{Effect, Event, State, step};
use super::snapshot::{Phase, ServiceState, Snapshot};
use crate::clock::BootTime;
use crate::key_service::{KeyService, KeyVersions, KnownKey, key_id};
use crate::local_kek::Cache;

/// Changes of addresses, tokens and local KEKs within this time are published together: a busy agent changes them with
/// every call.
const COALESCE: Duration = Duration::from_millis(200);
/// Longest pause until the deadline of an outage is looked at: the timer does not count the time that a machine is
/// suspended, and the deadline does.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Which key service an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceId {
    /// The one that wraps.
    Primary,
    /// One that only unwraps, by its number.
    DecryptOnly(usize),
}

/// An event on its way to the state.
pub(crate) struct Message {
    pub service: ServiceId,
    pub event: Event,
    /// Answered when the snapshot is published: whether a read should be repeated soon.
    pub done: Option<oneshot::Sender<bool>>,
}

/// A key service that only unwraps, as the publisher keeps it.
pub(crate) struct DecryptOnly {
    pub name: String,
    pub epoch: u32,
    pub key_service: Arc<dyn KeyService>,
    pub key: Option<KnownKey>,
    pub problem: Option<String>,
    pub contact: Option<BootTime>,
    /// Whether it refuses us beyond doubt.
    pub refuses: bool,
}

/// The owner of the state.
pub(crate) struct Publisher {
    pub state: State,
    pub primary: Arc<dyn KeyService>,
    pub decrypt_only: Vec<DecryptOnly>,
    pub identity: IdentityFile,
    pub local_keks: LocalKeks,
    pub output: Output,
}

/// Where snapshots go.
pub(crate) struct Output {
    /// To whoever waits for this core.
    pub own: watch::Sender<Arc<Snapshot>>,
    /// To the views of the agent, while they show this core. Returns whether they do.
    pub show: Box<dyn Fn(&Arc<Snapshot>) -> bool + Send>,
}

/// The cache of local KEKs, as far as the snapshot shows it; `None` while they are off.
pub(super) type LocalKeks = Option<Arc<Cache>>;

impl Publisher {
    /// Takes events until nobody can send any more. Publishes after each event, when an address, a token or a local KEK
    /// changed, and when the grace of an outage ends.
    pub(crate) async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut keks = self.local_keks.as_ref().map(|cache| cache.changes());
        let services: Vec<Arc<dyn KeyService>> = std::iter::once(&self.primary)
            .chain(self.decrypt_only.iter().map(|other| &other.key_service))
            .cloned()
            .collect();
        let mut publish_at: Option<Instant> = None;
        loop {
            let deadline = self.state.until.filter(|_| self.state.phase == Phase::Degraded);
            let pause = deadline.map(|deadline| deadline.since(BootTime::now()).min(MAX_PAUSE));
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                () = any_change(&services) => {
                    publish_at.get_or_insert(Instant::now() + COALESCE);
                }
                () = kek_change(&mut keks) => {
                    publish_at.get_or_insert(Instant::now() + COALESCE);
                }
                () = sleep_until(publish_at) => {
                    publish_at = None;
                    self.publish();
                }
                () = sleep(pause) => {
                    self.apply(Event::Tick);
                    self.publish();
                }
            }
        }
    }

    fn take(&mut self, message: Message) {
        let again = match message.service {
            ServiceId::Primary => self.apply(message.event),
            ServiceId::DecryptOnly(number) => {
                self.observe(number, message.event);
                false
            }
        };
        self.publish();
        if let Some(done) = message.done {
            let _gone = done.send(again);
        }
    }

    fn apply(&mut self, event: Event) -> bool {
        let before = self.state.key.clone();
        let accepted = matches!(event, Event::Accept);
        let (state, effects) = step(self.state.clone(), event, BootTime::now());
        self.state = state;
        if accepted && let (Some(given_up), Some(key)) = (&before, &self.state.key) {
            tracing::warn!(
                KMS_REASON = "key_accepted",
                "an administrator accepted {} version {} of {}; what was written under version {} of {} is given up (unix seconds)",
                key.scope,
                key.version,
                key.created,
                given_up.version,
                given_up.created
            );
        }
        if self.state.key != before {
            log_key(before.as_ref(), self.state.key.as_ref());
        }
        if effects.contains(&Effect::SaveIdentity)
            && let Some(key) = self.state.key.as_ref().filter(|_| !self.state.has_mismatch())
            && let Err(error) = self.identity.save(key, self.state.last_contact)
        {
            tracing::warn!(
                "the key's identity cannot be saved: {error}; a restart in an outage would start without it"
            );
        }
        effects.contains(&Effect::ReadAgainSoon)
    }

    fn observe(&mut self, number: usize, event: Event) {
        let Some(service) = self.decrypt_only.get_mut(number) else { return };
        match event {
            Event::Described(description) => {
                let mut versions: KeyVersions =
                    service.key.as_ref().map(|key| key.versions.clone()).unwrap_or_default();
                versions.extend(&description.versions);
                service.key =
                    key_id::known_key(service.key_service.scope(), &description, &versions, service.epoch);
                (service.contact, service.refuses) = (Some(BootTime::now()), false);
                if service.problem.take().is_some() {
                    tracing::info!("decrypt_only {:?} is reached again", service.name);
                }
            }
            Event::DescribeFailed(error) => {
                let problem = error.to_string();
                if service.problem.is_none() {
                    tracing::warn!(
                        KMS_REASON = error.kind().name(),
                        KMS_REMEDY = error.remedy(),
                        "decrypt_only {:?}: {problem}",
                        service.name
                    );
                }
                service.problem = Some(problem);
            }
            Event::RoundTripFailed { confirmed, .. } => service.refuses = confirmed,
            _ => {}
        }
    }

    fn publish(&self) {
        let snapshot =
            Arc::new(render(&self.state, &self.primary, &self.decrypt_only, self.local_keks.as_deref()));
        let before = self.output.own.borrow().clone();
        // Told after it is published: a journal that blocks must not hold up Status.
        if before == snapshot {
            return;
        }
        self.output.own.send_replace(snapshot.clone());
        if (self.output.show)(&snapshot) {
            log_phase(&before, &snapshot);
        }
    }
}

/// Completes when an address or a token of a key service changed.
async fn any_change(services: &[Arc<dyn KeyService>]) {
    let changes = services.iter().map(|service| service.changed());
    futures_util::future::select_all(changes).await;
}

/// Completes when the local KEKs changed; never while they are off.
async fn kek_change(keks: &mut Option<watch::Receiver<u64>>) {
    let closed = match keks {
        Some(changes) => changes.changed().await.is_err(),
        None => true,
    };
    if closed {
        std::future::pending().await
    }
}

/// Never completes without an instant.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Never completes without a time. A millisecond at least: the two clocks may differ by less.
async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause.max(Duration::from_millis(1))).await,
        None => std::future::pending().await,
    }
}

/// The snapshot of a state as it is.
pub(crate) fn render(
    state: &State,
    primary: &Arc<dyn KeyService>,
    decrypt_only: &[DecryptOnly],
    local_keks: Option<&Cache>,
) -> Snapshot {
    let mut snapshot = Snapshot {
        phase: state.phase,
        since: state.since,
        reason: state.reason.clone(),
        until: state.until,
        last_contact: state.last_contact,
        announce: state.announce,
        unread: state.unread,
        proven: state.proven,
        primary: ServiceState {
            name: "primary".to_owned(),
            scope: primary.scope().clone(),
            key: state.key.clone(),
            token: primary.token(),
            addresses: primary.addresses(),
            problem: state.reason.as_ref().map(|reason| reason.text.clone()),
            contact: None,
            refuses: false,
        },
        decrypt_only: decrypt_only.iter().map(DecryptOnly::state).collect(),
        offline: local_keks.and_then(|keks| keks.state(state.key.as_ref().map(|key| &*key.key_id))),
    };
    snapshot.primary.refuses = state.refuses(BootTime::now());
    // While the key is another one than we know, an answer says nothing of what is kept.
    snapshot.primary.contact = state.last_contact.filter(|_| snapshot.can_wrap());
    snapshot
}

impl DecryptOnly {
    fn state(&self) -> ServiceState {
        ServiceState {
            name: self.name.clone(),
            scope: self.key_service.scope().clone(),
            key: self.key.clone(),
            token: self.key_service.token(),
            addresses: self.key_service.addresses(),
            problem: self.problem.clone(),
            contact: self.contact,
            refuses: self.refuses,
        }
    }
}

fn log_key(before: Option<&KnownKey>, now: Option<&KnownKey>) {
    let Some(key) = now else { return };
    if before.is_none_or(|before| before.key_id != key.key_id) {
        tracing::info!(
            KMS_KEY_ID = &*key.key_id,
            "the key in use is {} version {}, key_id {}",
            key.scope,
            key.version,
            key.key_id
        );
    }
    for warning in &key.warnings {
        if before.is_none_or(|before| !before.warnings.contains(warning)) {
            tracing::warn!(KMS_REMEDY = warning.remedy, "{}: {}", key.scope, warning.text);
        }
    }
}

/// One line a change, at the priority of the new state.
fn log_phase(before: &Snapshot, now: &Snapshot) {
    let kind = |snapshot: &Snapshot| snapshot.reason.as_ref().map(|reason| reason.kind);
    if (before.phase, kind(before)) == (now.phase, kind(now)) {
        return;
    }
    let line = now.line();
    let reason = kind(now).map_or("none", |kind| kind.name());
    match now.phase {
        Phase::Failed => tracing::error!(KMS_REASON = reason, "{line}"),
        Phase::Degraded => tracing::warn!(KMS_REASON = reason, "{line}"),
        Phase::Starting if now.reason.is_some() => tracing::warn!(KMS_REASON = reason, "{line}"),
        _ => tracing::info!(KMS_REASON = reason, "{line}"),
    }
}
