//! Owns the state of the agent, publishes its snapshot, and logs each change.
//!
//! Nobody else writes the state, so all outputs that render the snapshot agree.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::event::{Effect, Event};
use super::identity::IdentityFile;
use super::phase::{State, step, wipe_at};
use super::phase_log::{PhaseLog, log_namespaces, write};
use super::snapshot::{Phase, ServiceState, Snapshot};
use super::timing::{MAX_PAUSE, PUBLISH_DELAY};
use super::verdict::Verdict;
use crate::clock::{BootTime, until};
use crate::key_service::{KeyService, KnownKey, key_id};
use crate::local_kek::Cache;

/// Which key service an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceId {
    /// The key service that wraps.
    Primary,
    /// A key service that only unwraps, by its position in the configuration.
    DecryptOnly(usize),
}

/// An event for the owner of the state.
pub(crate) struct Message {
    pub service: ServiceId,
    pub event: Event,
    /// Answered when the result is published; true when a read should be repeated soon.
    pub done: Option<oneshot::Sender<bool>>,
}

/// A key service that only unwraps, and what is known of it.
pub(crate) struct DecryptOnly {
    pub name: String,
    pub epoch: u32,
    pub key_service: Arc<dyn KeyService>,
    pub key: Option<KnownKey>,
    pub verdict: Verdict,
    pub last_contact: Option<BootTime>,
    /// Since when a refusal is confirmed.
    pub refused_since: Option<BootTime>,
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

/// Where snapshots are published. During a reload, two publishers run: one for the old configuration, which the agent
/// uses, and one for the new configuration, which is being tested.
pub(crate) struct Output {
    /// Each snapshot of this publisher, for those who wait for its configuration.
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    pub publish: Publish,
}

/// Makes a snapshot the state of the agent when the agent uses this configuration. Returns whether it does.
pub(crate) type Publish = Box<dyn Fn(&Arc<Snapshot>) -> bool + Send>;

/// The cache of local KEKs; `None` while they are off.
pub(super) type LocalKeks = Option<Arc<Cache>>;

impl Publisher {
    /// Handles events until all senders are gone. Publishes after each event, when an address, a token or a local KEK
    /// changed, and when the grace period of an outage ends.
    pub(crate) async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut keks = self.local_keks.as_ref().map(|cache| cache.changes());
        let services: Vec<Arc<dyn KeyService>> = std::iter::once(&self.primary)
            .chain(self.decrypt_only.iter().map(|other| &other.key_service))
            .cloned()
            .collect();
        let mut publish_at: Option<Instant> = None;
        let mut log = PhaseLog::new(&self.output.snapshots.borrow());
        loop {
            let grace_end = self.state.grace_end.filter(|_| self.state.phase == Phase::Degraded);
            let pause = grace_end.map(|end| end.since(BootTime::now()).min(MAX_PAUSE));
            tokio::select! {
                biased;
                message = messages.recv() => match message {
                    Some(message) => self.handle(message, &mut log),
                    None => return,
                },
                // A change that comes while a publication is planned is kept for the next one: a busy agent must not
                // wake this task with every call.
                () = service_change(&services), if publish_at.is_none() => {
                    publish_at = Some(Instant::now() + PUBLISH_DELAY);
                }
                () = kek_change(&mut keks), if publish_at.is_none() => {
                    publish_at = Some(Instant::now() + PUBLISH_DELAY);
                }
                () = until(publish_at) => {
                    publish_at = None;
                    self.publish(&mut log);
                }
                () = until(log.due()) => {
                    let snapshot = self.output.snapshots.borrow().clone();
                    let _published = self.log(&snapshot, &mut log);
                }
                () = sleep_for(pause) => {
                    self.apply(Event::Tick);
                    self.publish(&mut log);
                }
            }
        }
    }

    fn handle(&mut self, message: Message, log: &mut PhaseLog) {
        let read_again = match message.service {
            ServiceId::Primary => self.apply(message.event),
            ServiceId::DecryptOnly(number) => {
                self.apply_decrypt_only(number, message.event);
                false
            }
        };
        self.publish(log);
        if let Some(done) = message.done {
            let _gone = done.send(read_again);
        }
    }

    /// Applies an event of the primary. True when its key should be read again soon.
    fn apply(&mut self, event: Event) -> bool {
        let before = self.state.key.clone();
        let accepted = matches!(event, Event::Accept);
        let (state, effects) = step(self.state.clone(), event, BootTime::now());
        self.state = state;
        if accepted && let (Some(given_up), Some(key)) = (&before, &self.state.key) {
            tracing::warn!(
                KMS_REASON = "key_accepted",
                "an administrator accepted the changed key {}: the agent now uses version {}, created at {} (unix seconds). Data under version {}, created at {}, cannot be read any more",
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
                "the key's identity cannot be saved: {error}; an agent that restarts during an outage would start without it"
            );
        }
        effects.contains(&Effect::ReadAgainSoon)
    }

    fn apply_decrypt_only(&mut self, number: usize, event: Event) {
        let Some(service) = self.decrypt_only.get_mut(number) else { return };
        match event {
            Event::Described(description) => {
                let known = service.key.as_ref().map(|key| key.versions.clone()).unwrap_or_default();
                let versions = known.merged(&description.versions);
                service.key =
                    key_id::known_key(service.key_service.scope(), &description, &versions, service.epoch);
                service.last_contact = Some(BootTime::now());
            }
            Event::Judged { verdict, .. } => {
                match (service.verdict.error(), verdict.error()) {
                    (None, Some(error)) => tracing::warn!(
                        KMS_REASON = error.kind().name(),
                        KMS_REMEDY = error.remedy(),
                        "decrypt_only {:?}: {error}",
                        service.name
                    ),
                    (Some(_), None) => tracing::info!("decrypt_only {:?} can be read again", service.name),
                    _ => {}
                }
                let since = service.refused_since.unwrap_or_else(BootTime::now);
                service.refused_since = verdict.ends_use().then_some(since);
                service.verdict = verdict;
            }
            _ => {}
        }
    }

    fn publish(&self, log: &mut PhaseLog) {
        let snapshot =
            Arc::new(render(&self.state, &self.primary, &self.decrypt_only, self.local_keks.as_deref()));
        if *self.output.snapshots.borrow() == snapshot {
            return;
        }
        let before = self.output.snapshots.send_replace(snapshot.clone());
        // Logged after it is published: a journal that blocks must not delay Status.
        if self.log(&snapshot, log) {
            log_namespaces(&before, &snapshot);
        }
    }

    /// Writes a line about the state, if one is due. Not for a configuration that is only being tested: then the result
    /// is false.
    fn log(&self, snapshot: &Arc<Snapshot>, log: &mut PhaseLog) -> bool {
        let published = (self.output.publish)(snapshot);
        if !published {
            *log = PhaseLog::new(snapshot);
        } else if let Some(changes) = log.note(snapshot, Instant::now()) {
            write(snapshot, changes);
        }
        published
    }
}

/// Completes when an address or a token of a key service changed.
async fn service_change(services: &[Arc<dyn KeyService>]) {
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

/// Sleeps for `pause`; for ever when there is none. Sleeps at least a millisecond: the timer may be ahead of the boot
/// clock, and without a sleep the caller would loop.
async fn sleep_for(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause.max(Duration::from_millis(1))).await,
        None => std::future::pending().await,
    }
}

/// The snapshot of a state at this moment.
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
        grace_end: state.grace_end,
        last_contact: state.last_contact,
        announce: state.announce,
        key_stale: state.key_stale,
        verified: state.verified,
        primary: ServiceState {
            name: "primary".to_owned(),
            scope: primary.scope().clone(),
            key: state.key.clone(),
            token: primary.token(),
            addresses: primary.addresses(),
            problem: state.reason.as_ref().map(|reason| reason.text.clone()),
            ignored_namespace: primary.ignored_namespace(),
            last_contact: None,
            wipe_at: state.wipe_at(),
        },
        decrypt_only: decrypt_only.iter().map(DecryptOnly::state).collect(),
        local_keks: local_keks.and_then(|keks| keks.state(state.key.as_ref().map(|key| &*key.key_id))),
        config: Default::default(),
    };
    // An answer under another key than the known one does not extend the use of local KEKs.
    snapshot.primary.last_contact = state.last_contact.filter(|_| snapshot.can_wrap());
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
            problem: self.verdict.error().map(ToString::to_string),
            ignored_namespace: self.key_service.ignored_namespace(),
            last_contact: self.last_contact,
            wipe_at: self.refused_since.map(|since| wipe_at(since, self.last_contact)),
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
