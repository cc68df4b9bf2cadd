//! The phases as a pure state machine: what was seen and when decides what the agent says of itself.
//!
//! Must not know time, tasks or I/O: they come in as events and `now`, and go out as effects.
//!
//! ```text
//! Starting ──first good round trip──▶ Ready ◀──────────────┐
//!    │                                 │ fault             │ good round trip
//!    │ confirmed denial                ▼                   │
//!    └──────────▶ Failed ◀──grace over, denial── Degraded ─┤
//!                   └──────────────────────────────────────┘
//! ```

use std::time::Duration;

use super::reasons::{is_refusal, key_replaced, key_rolled_back, no_contact, reason_of};
use super::snapshot::{Announce, Phase, Reason, ReasonKind};
use crate::clock::BootTime;
use crate::config::settings::Grace;
use crate::key_service::key_id;
use crate::key_service::{ErrorKind, KeyDescription, KeyScope, KeyServiceError, KeyVersions, KnownKey};

/// How often running a lower version must be seen before it is believed: one replica may lag.
const ROLLBACK_CONFIRMATIONS: u32 = 3;
/// Time from one such sight to the next that counts: replication needs it, and calls force reads.
const ROLLBACK_INTERVAL: Duration = Duration::from_secs(4);

/// How long a sealed service must stay so before that counts as a refusal that is beyond doubt.
const SEALED_CONFIRMATION: Duration = Duration::from_secs(5);

/// What never changes during a run.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// The key's place.
    pub scope: KeyScope,
    /// The epoch of our key_ids.
    pub epoch: u32,
    /// How long an outage is ridden out.
    pub grace: Grace,
    /// Whether a sealed service counts as a refusal.
    pub sealed_is_denied: bool,
    /// The creation time that an administrator accepts for the newest version.
    pub expect_created: Option<i64>,
}

/// What was seen.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The key's versions were read.
    Described(KeyDescription),
    /// They could not be read.
    DescribeFailed(KeyServiceError),
    /// A round trip gave the same bytes back.
    RoundTrip,
    /// It did not. `confirmed`: asked twice, at every address, after a fresh login.
    RoundTripFailed {
        /// Why.
        error: KeyServiceError,
        /// Whether a refusal is beyond doubt.
        confirmed: bool,
    },
    /// An administrator accepts the key as it is now.
    Accept,
    /// Time passed.
    Tick,
    /// The process ends.
    Stop,
}

/// What the owner of the state does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Write the identity down: it, or the time of the last contact, changed.
    SaveIdentity,
    /// Read the key's versions again soon: what was read may be a lagging replica's.
    ReadAgainSoon,
}

/// The agent's state.
#[derive(Clone, Debug)]
pub(crate) struct State {
    rules: Rules,
    /// The phase.
    pub phase: Phase,
    /// Since when.
    pub since: BootTime,
    /// Why it is not ready.
    pub reason: Option<Reason>,
    /// Until when a degraded agent answers ok.
    pub until: Option<BootTime>,
    /// The last good answer of the key service.
    pub last_contact: Option<BootTime>,
    /// What Status answers; a stopping agent keeps its last answer.
    pub announce: Announce,
    /// Whether a round trip has worked since the start.
    pub proven: bool,
    /// The key.
    pub key: Option<KnownKey>,
    /// Whether an earlier run's identity and last contact were taken over.
    resumed: bool,
    /// Whether the key may have changed since it was last read: an earlier run's, or after an outage.
    pub unread: bool,
    /// How often running a lower version was seen, and when last.
    lags: u32,
    lagged: Option<BootTime>,
    mismatch: Option<(Reason, KeyDescription)>,
    describe_fault: Option<KeyServiceError>,
    wrap_fault: Option<(KeyServiceError, bool)>,
}

impl State {
    /// The state of a start: with what an earlier run saved, or with nothing.
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
            until: None,
            last_contact,
            announce: Announce::Unknown,
            proven: false,
            resumed: key.is_some() && last_contact.is_some(),
            key,
            unread: true,
            lags: 0,
            lagged: None,
            mismatch: None,
            describe_fault: None,
            wrap_fault: None,
        };
        state.settle(now);
        state
    }

    /// Whether the key is another one than we know.
    pub(crate) fn has_mismatch(&self) -> bool {
        self.mismatch.is_some()
    }

    /// Whether the key service refuses us beyond doubt: what it once unwrapped for us may not be used any longer,
    /// also while the key is another one than we know. That alone is no refusal: what is kept may be the only copy.
    pub(crate) fn refuses(&self, now: BootTime) -> bool {
        match &self.wrap_fault {
            // One look may have met a server that is just starting.
            Some((error, _)) if error.kind() == ErrorKind::Sealed => {
                self.rules.sealed_is_denied && now.since(self.since) >= SEALED_CONFIRMATION
            }
            Some((error, confirmed)) => *confirmed && is_refusal(error),
            None => false,
        }
    }

    fn learn(&mut self, description: &KeyDescription, versions: &KeyVersions) {
        self.key = key_id::known_key(&self.rules.scope, description, versions, self.rules.epoch);
        self.mismatch = None;
        self.lags = 0;
        self.lagged = None;
    }

    fn described(&mut self, description: KeyDescription, now: BootTime, effects: &mut Vec<Effect>) {
        self.describe_fault = None;
        self.unread = false;
        let Some(known) = &self.key else {
            let versions = description.versions.clone();
            return self.learn(&description, &versions);
        };
        let newest = description.versions.get(&description.latest).copied();
        let expected = self.rules.expect_created.is_some() && newest == self.rules.expect_created;
        let differs = |(version, created): (&u32, &i64)| {
            known.versions.get(version).is_some_and(|known| known != created)
        };
        if let Some((version, created)) = description.versions.iter().find(|pair| differs(*pair)) {
            if expected {
                let versions = description.versions.clone();
                return self.learn(&description, &versions);
            }
            let before = known.versions.get(version).copied().unwrap_or_default();
            let reason = key_replaced(&known.scope, *version, before, *created);
            self.mismatch = Some((reason, description));
        } else if description.latest < known.version {
            if expected {
                let versions = description.versions.clone();
                return self.learn(&description, &versions);
            }
            if self.lagged.is_none_or(|lagged| now.since(lagged) >= ROLLBACK_INTERVAL) {
                self.lags += 1;
                self.lagged = Some(now);
            }
            if self.lags < ROLLBACK_CONFIRMATIONS && self.mismatch.is_none() {
                effects.push(Effect::ReadAgainSoon);
                return;
            }
            let reason = key_rolled_back(&known.scope, known.version, description.latest);
            self.mismatch = Some((reason, description));
        } else {
            let mut versions = known.versions.clone();
            versions.extend(&description.versions);
            self.learn(&description, &versions);
        }
    }

    fn accept(&mut self) {
        if let Some((_, description)) = self.mismatch.take() {
            let versions = description.versions.clone();
            self.learn(&description, &versions);
        }
    }

    /// Derives phase, reason and deadline from what was seen; keeps `since` while the phase stays.
    fn settle(&mut self, now: BootTime) {
        let (phase, reason, until) = self.judge(now);
        if phase != self.phase {
            self.phase = phase;
            self.since = now;
        }
        self.reason = reason;
        self.until = until;
        self.announce = match phase {
            Phase::Starting => Announce::Unknown,
            Phase::Ready | Phase::Degraded => Announce::Ok,
            Phase::Failed if self.until.is_some() => Announce::Unhealthy,
            Phase::Failed => Announce::Refused,
            Phase::Stopping => self.announce,
        };
    }

    fn judge(&self, now: BootTime) -> (Phase, Option<Reason>, Option<BootTime>) {
        if self.phase == Phase::Stopping {
            return (Phase::Stopping, self.reason.clone(), self.until);
        }
        if let Some((reason, _)) = &self.mismatch {
            return (Phase::Failed, Some(reason.clone()), None);
        }
        if let Some((error, confirmed)) = &self.wrap_fault {
            return self.judge_fault(error, *confirmed, now);
        }
        match (&self.describe_fault, self.proven, &self.key) {
            (None, true, Some(_)) => (Phase::Ready, None, None),
            (Some(error), true, Some(_)) if error.kind() == ErrorKind::Denied => {
                let reason = Reason {
                    kind: ReasonKind::KeyUnreadable,
                    text: format!(
                        "the key's versions cannot be read, so a rotation is not seen; wrapping worked at the last round trip: {error}"
                    ),
                    remedy: error.remedy().to_owned(),
                };
                (Phase::Degraded, Some(reason), None)
            }
            (Some(error), ..) => self.judge_fault(error, false, now),
            (None, ..) => self.outage(no_contact(&self.rules.scope), now),
        }
    }

    fn judge_fault(
        &self,
        error: &KeyServiceError,
        confirmed: bool,
        now: BootTime,
    ) -> (Phase, Option<Reason>, Option<BootTime>) {
        if self.is_outage(error) {
            return self.outage(reason_of(error), now);
        }
        // A read that says "not found" explains a refusal better than the refusal itself.
        let missing = self.describe_fault.as_ref().filter(|fault| fault.kind() == ErrorKind::NotFound);
        let reason = reason_of(missing.unwrap_or(error));
        if confirmed || error.kind() == ErrorKind::Sealed {
            return (Phase::Failed, Some(reason), None);
        }
        self.outage(reason, now)
    }

    /// Degraded until the grace is over, counted from the last contact. What never worked, neither in
    /// this run nor in the one before, is still starting.
    fn outage(&self, reason: Reason, now: BootTime) -> (Phase, Option<Reason>, Option<BootTime>) {
        let contact = self.last_contact.filter(|_| self.key.is_some() && (self.proven || self.resumed));
        let Some(contact) = contact else { return (Phase::Starting, Some(reason), None) };
        let until = match self.rules.grace {
            Grace::Unlimited => None,
            Grace::For(grace) => Some(contact.plus(grace)),
        };
        match until {
            Some(until) if now >= until => (Phase::Failed, Some(reason), Some(until)),
            until => (Phase::Degraded, Some(reason), until),
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

/// The state after `event`, and what to do about it.
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
            // Where the key may not be read at all, waiting for a read would never end.
            if !state.is_outage(&error) {
                state.unread = false;
            }
            state.describe_fault = Some(error);
        }
        Event::RoundTrip => {
            state.wrap_fault = None;
            state.last_contact = Some(now);
            state.proven = true;
            effects.push(Effect::SaveIdentity);
        }
        Event::RoundTripFailed { error, confirmed } => {
            // What comes back after an outage may be another key.
            state.unread |= state.is_outage(&error);
            state.wrap_fault = Some((error, confirmed));
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
    state.settle(now);
    (state, effects)
}

#[cfg(test)]
#[path = "phase_tests.rs"]
mod tests;
