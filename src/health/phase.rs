//! The phases as a pure state machine: what was observed, and when, decides in which phase the agent is.
//!
//! Must not know clocks, tasks or I/O. They come in as events and `now`, and go out as effects.
//!
//! ```text
//! Starting ──first round trip works──▶ Ready ◀───────────────┐
//!    │                                   │ fault             │ round trip works
//!    │ confirmed refusal                 ▼                   │
//!    └──────────▶ Failed ◀──grace over, refusal── Degraded ──┤
//!                   └────────────────────────────────────────┘
//! ```

use super::event::{Effect, Event, Rules};
use super::reasons::{is_refusal, key_replaced, key_rolled_back, key_unreadable, no_contact, reason_of};
use super::snapshot::{Announce, Phase, Reason};
use super::timing::{ROLLBACK_INTERVAL, SEALED_CONFIRMATION};
use crate::clock::BootTime;
use crate::config::settings::Grace;
use crate::key_service::key_id;
use crate::key_service::{ErrorKind, KeyDescription, KeyServiceError, KeyVersions, KnownKey};

/// Consecutive observations of a lower version needed to believe a rollback: one replica may lag.
const ROLLBACK_CONFIRMATIONS: u32 = 3;

/// The phase, its reason, and the end of the grace period.
type Evaluation = (Phase, Option<Reason>, Option<BootTime>);

/// The agent's state.
#[derive(Clone, Debug)]
pub(crate) struct State {
    rules: Rules,
    pub phase: Phase,
    /// When the phase began.
    pub since: BootTime,
    /// Why the agent is not ready.
    pub reason: Option<Reason>,
    /// When KMS Status stops answering ok; `None` outside an outage, and without a limit.
    pub grace_end: Option<BootTime>,
    /// When a round trip worked last.
    pub last_contact: Option<BootTime>,
    /// What KMS Status answers. An agent that stops keeps its last answer.
    pub announce: Announce,
    /// Whether a round trip has worked since the start.
    pub verified: bool,
    pub key: Option<KnownKey>,
    /// Whether an earlier run saved an identity and a last contact of this boot.
    resumed: bool,
    /// Whether the key may have changed since the last read: after a start, and after an outage.
    pub key_stale: bool,
    /// How many observations in a row showed a lower version, and when the last one was.
    rollback_observations: u32,
    last_rollback_observation: Option<BootTime>,
    /// Why the key that was read is not the known key, and what was read.
    mismatch: Option<(Reason, KeyDescription)>,
    describe_error: Option<KeyServiceError>,
    /// The error of the last round trip, and whether it is a confirmed refusal.
    round_trip_error: Option<(KeyServiceError, bool)>,
}

impl State {
    /// The state at the start: with what an earlier run saved, or with nothing.
    pub(crate) fn new(rules: Rules, saved: Option<(KnownKey, Option<BootTime>)>, now: BootTime) -> Self {
        let (key, last_contact) = match saved {
            Some((key, last_contact)) => (Some(key), last_contact),
            None => (None, None),
        };
        let mut state = Self {
            rules,
            phase: Phase::Starting,
            since: now,
            reason: None,
            grace_end: None,
            last_contact,
            announce: Announce::Unknown,
            verified: false,
            resumed: key.is_some() && last_contact.is_some(),
            key,
            key_stale: true,
            rollback_observations: 0,
            last_rollback_observation: None,
            mismatch: None,
            describe_error: None,
            round_trip_error: None,
        };
        state.update(now);
        state
    }

    /// Whether the key that was read is not the known key.
    pub(crate) fn has_mismatch(&self) -> bool {
        self.mismatch.is_some()
    }

    /// Whether a refusal of the key service is confirmed. Then the agent must stop using the keys that the service
    /// once unwrapped, also during a mismatch. A mismatch alone is no refusal: the cached keys may be the only copy.
    pub(crate) fn refuses(&self, now: BootTime) -> bool {
        match &self.round_trip_error {
            // A server that is just starting is sealed, too.
            Some((error, _)) if error.kind() == ErrorKind::Sealed => {
                self.rules.sealed_is_denied && now.since(self.since) >= SEALED_CONFIRMATION
            }
            Some((error, confirmed)) => *confirmed && is_refusal(error),
            None => false,
        }
    }

    /// Makes the key that was read the known key.
    fn set_key(&mut self, description: &KeyDescription, versions: &KeyVersions) {
        self.key = key_id::known_key(&self.rules.scope, description, versions, self.rules.epoch);
        self.mismatch = None;
        self.rollback_observations = 0;
        self.last_rollback_observation = None;
    }

    /// Compares what was read with the known key. The key is the same when every known version has its creation
    /// time, and the newest version is not lower.
    fn described(&mut self, description: KeyDescription, now: BootTime, effects: &mut Vec<Effect>) {
        self.describe_error = None;
        self.key_stale = false;
        let Some(known) = &self.key else {
            let versions = description.versions.clone();
            return self.set_key(&description, &versions);
        };
        let newest = description.versions.get(&description.latest).copied();
        let expected = self.rules.expect_created.is_some() && newest == self.rules.expect_created;
        let differs = |(version, created): (&u32, &i64)| {
            known.versions.get(version).is_some_and(|known| known != created)
        };
        if let Some((version, created)) = description.versions.iter().find(|pair| differs(*pair)) {
            if expected {
                let versions = description.versions.clone();
                return self.set_key(&description, &versions);
            }
            let before = known.versions.get(version).copied().unwrap_or_default();
            let reason = key_replaced(&known.scope, *version, before, *created);
            self.mismatch = Some((reason, description));
        } else if description.latest < known.version {
            if expected {
                let versions = description.versions.clone();
                return self.set_key(&description, &versions);
            }
            if self.last_rollback_observation.is_none_or(|last| now.since(last) >= ROLLBACK_INTERVAL) {
                self.rollback_observations += 1;
                self.last_rollback_observation = Some(now);
            }
            if self.rollback_observations < ROLLBACK_CONFIRMATIONS && self.mismatch.is_none() {
                effects.push(Effect::ReadAgainSoon);
                return;
            }
            let reason = key_rolled_back(&known.scope, known.version, description.latest);
            self.mismatch = Some((reason, description));
        } else {
            let mut versions = known.versions.clone();
            versions.extend(&description.versions);
            self.set_key(&description, &versions);
        }
    }

    fn accept(&mut self) {
        if let Some((_, description)) = self.mismatch.take() {
            let versions = description.versions.clone();
            self.set_key(&description, &versions);
        }
    }

    /// Derives the phase and what follows from it. `since` stays while the phase stays.
    fn update(&mut self, now: BootTime) {
        let (phase, reason, grace_end) = self.evaluate(now);
        if phase != self.phase {
            self.phase = phase;
            self.since = now;
        }
        self.reason = reason;
        self.grace_end = grace_end;
        self.announce = match phase {
            Phase::Starting => Announce::Unknown,
            Phase::Ready | Phase::Degraded => Announce::Ok,
            Phase::Failed if self.grace_end.is_some() => Announce::Unhealthy,
            Phase::Failed => Announce::Refused,
            Phase::Stopping => self.announce,
        };
    }

    fn evaluate(&self, now: BootTime) -> Evaluation {
        if self.phase == Phase::Stopping {
            return (Phase::Stopping, self.reason.clone(), self.grace_end);
        }
        if let Some((reason, _)) = &self.mismatch {
            return (Phase::Failed, Some(reason.clone()), None);
        }
        if let Some((error, confirmed)) = &self.round_trip_error {
            return self.evaluate_error(error, *confirmed, now);
        }
        match (&self.describe_error, self.verified, &self.key) {
            (None, true, Some(_)) => (Phase::Ready, None, None),
            (Some(error), true, Some(_)) if error.kind() == ErrorKind::Denied => {
                (Phase::Degraded, Some(key_unreadable(error)), None)
            }
            (Some(error), ..) => self.evaluate_error(error, false, now),
            (None, ..) => self.outage(no_contact(&self.rules.scope), now),
        }
    }

    fn evaluate_error(&self, error: &KeyServiceError, confirmed: bool, now: BootTime) -> Evaluation {
        if self.is_outage(error) {
            return self.outage(reason_of(error), now);
        }
        // A read that says "not found" explains a refusal better than the refusal itself.
        let missing = self.describe_error.as_ref().filter(|error| error.kind() == ErrorKind::NotFound);
        let reason = reason_of(missing.unwrap_or(error));
        if confirmed || error.kind() == ErrorKind::Sealed {
            return (Phase::Failed, Some(reason), None);
        }
        self.outage(reason, now)
    }

    /// Degraded until the grace period ends, counted from the last contact. An agent that never had contact, neither
    /// in this run nor in the one before, is still starting.
    fn outage(&self, reason: Reason, now: BootTime) -> Evaluation {
        let contact = self.last_contact.filter(|_| self.key.is_some() && (self.verified || self.resumed));
        let Some(contact) = contact else { return (Phase::Starting, Some(reason), None) };
        let grace_end = match self.rules.grace {
            Grace::Unlimited => None,
            Grace::For(grace) => Some(contact.plus(grace)),
        };
        match grace_end {
            Some(end) if now >= end => (Phase::Failed, Some(reason), Some(end)),
            end => (Phase::Degraded, Some(reason), end),
        }
    }

    fn is_outage(&self, error: &KeyServiceError) -> bool {
        match error.kind() {
            ErrorKind::Sealed => !self.rules.sealed_is_denied,
            ErrorKind::CredentialsUnreadable => true,
            kind => kind.is_outage(),
        }
    }
}

/// The state after `event`, and what to do next.
pub(super) fn step(mut state: State, event: Event, now: BootTime) -> (State, Vec<Effect>) {
    let mut effects = Vec::new();
    match event {
        Event::Described(description) => {
            let before = state.key.clone();
            state.described(description, now, &mut effects);
            if state.key != before {
                effects.push(Effect::SaveIdentity);
            }
        }
        Event::DescribeFailed(error) => {
            // Where the policy does not allow reading the key, waiting for a read would never end.
            if !state.is_outage(&error) {
                state.key_stale = false;
            }
            state.describe_error = Some(error);
        }
        Event::RoundTripSucceeded => {
            state.round_trip_error = None;
            state.last_contact = Some(now);
            state.verified = true;
            effects.push(Effect::SaveIdentity);
        }
        Event::RoundTripFailed { error, confirmed } => {
            // After an outage, the key may be another one.
            state.key_stale |= state.is_outage(&error);
            state.round_trip_error = Some((error, confirmed));
        }
        Event::Accept => {
            state.accept();
            effects.push(Effect::SaveIdentity);
        }
        Event::Tick => {}
        Event::Stop => {
            state.phase = Phase::Stopping;
            state.since = now;
        }
    }
    state.update(now);
    (state, effects)
}

#[cfg(test)]
#[path = "phase_tests.rs"]
mod tests;
