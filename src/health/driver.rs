//! The driver of one key service's machine: does the looks that the machine plans, and reports what they found.
//!
//! Decides nothing: when to look, and what a result means, is the machine's.

use std::sync::Arc;

use aws_lc_rs::rand;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::event::Event;
use super::machine::Machine;
use super::plan::{Look, Pace, Plan};
use super::publisher::{Message, ServiceId};
use super::snapshot::Snapshot;
use super::timing::{CALL_TIMEOUT, CONFIRMATION_TIMEOUT, HEALTH_TIMEOUT};
use super::verdict::{Hint, Role, Seen};
use crate::clock::{Deadline, Purpose};
use crate::config::settings::Health;
use crate::key_service::{ErrorKind, KeyChange, KeyDescription, KeyService, KeyServiceError};
use crate::local_kek::KeyCheck;
use crate::retry::jitter;

/// A request to look now, ahead of the plan. Answered when the result is published.
pub(crate) enum LookRequest {
    /// Read the key.
    Read(oneshot::Sender<()>),
    /// Ask for the health of the service, unless it answered a moment ago.
    Health(oneshot::Sender<()>),
}

/// The driver of one key service.
pub(crate) struct Driver {
    pub id: ServiceId,
    pub key_service: Arc<dyn KeyService>,
    pub health: Health,
    /// To the owner of the agent's state.
    pub messages: mpsc::Sender<Message>,
    /// The state that is published.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The key version that an earlier run saved; 0 without one.
    pub saved_version: u32,
    pub requests: mpsc::Receiver<LookRequest>,
    /// What the calls of the API server say about the service.
    pub hints: mpsc::Receiver<Hint>,
    /// Checks that a key fits local KEKs; `None` while they are off.
    pub key_check: Option<KeyCheck>,
}

impl Driver {
    /// Looks at the key service for ever.
    pub(crate) async fn run(mut self) {
        let role = match self.id {
            ServiceId::Primary => Role::Primary,
            ServiceId::DecryptOnly(_) => Role::DecryptOnly,
        };
        // A refusal must be confirmed within one configured interval, and the confirmation takes a part of it.
        let pace =
            Pace { read: self.health.key_check_interval, round_trip: self.health.probe_interval * 2 / 3 };
        let plan = Plan::new(pace, Instant::now());
        let mut version = self.saved_version;
        let mut machine = Machine::new(role, plan, version > 0, self.health.sealed_is_denied);
        loop {
            let (look, due) = machine.next();
            tokio::select! {
                biased;
                Some(request) = self.requests.recv() => self.answer(&mut machine, &mut version, request).await,
                Some(hint) = self.hints.recv() => machine.hint(hint, Instant::now()),
                () = tokio::time::sleep_until(due) => {
                    self.look(&mut machine, &mut version, look, Purpose::Background).await;
                }
            }
        }
    }

    /// Looks once for all who ask for the same.
    async fn answer(&mut self, machine: &mut Machine, version: &mut u32, first: LookRequest) {
        let (mut reads, mut healths) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                LookRequest::Read(done) => reads.push(done),
                LookRequest::Health(done) => healths.push(done),
            }
            next = self.requests.try_recv().ok();
        }
        if !reads.is_empty() {
            // For calls of the API server, at most once a second: their reads are no part of the agent's own budget.
            self.look(machine, version, Look::Read, Purpose::ApiServer).await;
            if machine.wants_proof() {
                // Whoever asked wants to use the key.
                self.look(machine, version, Look::RoundTrip, Purpose::ApiServer).await;
            }
            if machine.is_unread() {
                // Until then nothing is wrapped, since the key may be another one.
                self.look(machine, version, Look::Read, Purpose::ApiServer).await;
            }
        } else if machine.is_stale(Instant::now()) {
            self.look(machine, version, Look::Health, Purpose::Background).await;
        }
        for done in reads.into_iter().chain(healths) {
            let _gone = done.send(());
        }
    }

    async fn look(&self, machine: &mut Machine, version: &mut u32, look: Look, purpose: Purpose) {
        let began = Instant::now();
        let result = match look {
            Look::Health => {
                self.key_service.reachable(Deadline::after(HEALTH_TIMEOUT)).await.map(|()| Seen::Good)
            }
            Look::Read => self.read(version, purpose).await,
            Look::RoundTrip => self.round_trip(*version, purpose).await.map(|()| Seen::Good),
            Look::Confirm { wrap } => self.confirm(version, wrap).await,
        };
        let worked = look == Look::RoundTrip && result.is_ok();
        let error = result.as_ref().err().map(KeyServiceError::kind);
        machine.set_has_version(*version > 0);
        machine.looked(look, result, (began, Instant::now()), jitter());
        let verdict = machine.verdict();
        // While it is refused, the key may not be read for long.
        let unread = error == Some(ErrorKind::Denied) && look == Look::Read && verdict.ends_use();
        let lost = unread || error.is_some_and(ErrorKind::hides_key);
        self.send(Event::Judged { verdict, worked, lost }).await;
    }

    /// Reads the key's versions and reports them.
    async fn read(&self, version: &mut u32, purpose: Purpose) -> Result<Seen, KeyServiceError> {
        let mut key = self.key_service.describe(*version, Deadline::after(CALL_TIMEOUT).of(purpose)).await?;
        let mut complete = true;
        if let Some(key_check) = &self.key_check {
            match self.id {
                // No local KEK is made for a key that is not the one in use.
                ServiceId::Primary if self.is_known(&key) => {
                    complete = key_check.prepare(self.key_service.as_ref(), &mut key, *version).await;
                }
                ServiceId::Primary => {}
                ServiceId::DecryptOnly(_) => key_check.try_unwrap(self.key_service.as_ref(), &key).await?,
            }
        }
        let latest = key.latest;
        let may_lag = self.send(Event::Described(key)).await;
        // A lower version may be that of a lagging replica. It is used only when the rollback is confirmed.
        if !may_lag || latest > *version {
            *version = latest;
        }
        Ok(if may_lag || !complete { Seen::MayLag } else { Seen::Good })
    }

    /// Whether a key that was read is the one in use, or there was none before.
    fn is_known(&self, description: &KeyDescription) -> bool {
        let snapshot = self.snapshot.borrow();
        let Some(known) = &snapshot.primary.key else { return true };
        known.compare(description) == KeyChange::Same
            && (!snapshot.has_another_key() || known.shares_version(description))
    }

    /// Asks every address again whether it refuses.
    async fn confirm(&self, version: &mut u32, wrap: bool) -> Result<Seen, KeyServiceError> {
        let wrap_with = wrap.then_some(*version);
        let deadline = Deadline::after(CONFIRMATION_TIMEOUT);
        if self.id == ServiceId::Primary {
            return self.key_service.confirm(wrap_with, deadline).await.map(|()| Seen::Good);
        }
        let Err(error) = self.read(version, Purpose::Upkeep).await else { return Ok(Seen::Good) };
        match self.key_service.confirm(None, deadline).await {
            // A policy may allow to read the key and not to unwrap: an address that allows the read proves nothing.
            Ok(()) if error.kind() == ErrorKind::Denied => Err(error),
            Ok(()) => Ok(Seen::Good),
            Err(error) => Err(error),
        }
    }

    async fn round_trip(&self, version: u32, purpose: Purpose) -> Result<(), KeyServiceError> {
        let internal =
            |text: &'static str| KeyServiceError::new(ErrorKind::Internal, text, "report this as a bug");
        let mut seed = Zeroizing::new([0; 32]);
        rand::fill(&mut *seed).map_err(|_| internal("the system gives no random bytes"))?;
        let deadline = Deadline::after(CALL_TIMEOUT).of(purpose);
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
