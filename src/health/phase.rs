//! The phase of the agent, purely: it follows from the verdict on the primary, from the identity of the key, and from
//! the grace period.
//!
//! Judges no answer: [`super::machine`] does. Must not know clocks, tasks or I/O: they come in as events and `now`, and
//! go out as effects.

use super::event::{Effect, Event, Rules};
use super::reasons::{
    key_not_approved, key_replaced, key_rolled_back, key_unreadable, no_contact, reason_of,
};
use super::snapshot::{Announce, Phase, Reason};
use super::timing::{ROLLBACK_INTERVAL, WIPE_DELAY, WIPE_LIMIT};
use super::verdict::Verdict;
use crate::clock::BootTime;
use crate::config::settings::Grace;
use crate::fips;
use crate::key_service::key_id;
use crate::key_service::{KeyChange, KeyDescription, KeyVersions, KnownKey};

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
    verdict: Verdict,
    /// Since when a refusal is confirmed.
    refused_since: Option<BootTime>,
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
            verdict: Verdict::Unknown,
            refused_since: None,
        };
        state.update(now);
        state
    }

    /// Whether the key that was read is not the known key.
    pub(crate) fn has_mismatch(&self) -> bool {
        self.mismatch.is_some()
    }

    /// When the keys that the service once unwrapped must be wiped, because it refuses. A mismatch alone is no refusal:
    /// the keys in memory may be the only copy.
    pub(crate) fn wipe_at(&self) -> Option<BootTime> {
        self.refused_since.map(|since| wipe_at(since, self.last_contact))
    }

    /// Takes the verdict on the primary.
    fn judged(&mut self, verdict: Verdict, worked: bool, lost: bool, now: BootTime) {
        // After an outage or a refusal, the key may be another one. Where the policy does not allow to read the key,
        // waiting for a read would never end.
        self.key_stale = (self.key_stale || lost) && !matches!(verdict, Verdict::Unreadable(_));
        if worked {
            (self.last_contact, self.verified) = (Some(now), true);
        }
        self.refused_since = verdict.ends_use().then(|| self.refused_since.unwrap_or(now));
        self.verdict = verdict;
    }

    /// Makes the key that was read the known key.
    fn set_key(&mut self, description: &KeyDescription, versions: &KeyVersions) {
        self.key = key_id::known_key(&self.rules.scope, description, versions, self.rules.epoch);
        self.mismatch = None;
        self.rollback_observations = 0;
        self.last_rollback_observation = None;
    }

    /// Takes what was read, unless it is another key than the known one.
    fn described(&mut self, description: KeyDescription, now: BootTime, effects: &mut Vec<Effect>) {
        self.key_stale = false;
        let Some(known) = &self.key else {
            let versions = description.versions.clone();
            return self.set_key(&description, &versions);
        };
        let change = known.compare(&description);
        let newest = description.versions.get(description.latest);
        let expected = self.rules.expect_created.is_some() && newest == self.rules.expect_created;
        if expected && change != KeyChange::Same {
            let versions = description.versions.clone();
            return self.set_key(&description, &versions);
        }
        match (change, &mut self.mismatch) {
            // It may still be the other key.
            (KeyChange::Same, Some((_, other))) if !known.shares_version(&description) => {
                *other = description
            }
            (KeyChange::Same, _) => {
                let versions = known.versions.merged(&description.versions);
                self.set_key(&description, &versions);
            }
            (KeyChange::Replaced { version, before, now }, _) => {
                let reason = key_replaced(&known.scope, version, before, now);
                self.mismatch = Some((reason, description));
            }
            (KeyChange::Lower, _) => {
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
            }
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
        if let Some(key) = self.key.as_ref().filter(|key| !fips::approves(&key.key_type, self.rules.fips)) {
            return (Phase::Failed, Some(key_not_approved(key)), None);
        }
        match &self.verdict {
            Verdict::Refused(error) => (Phase::Failed, Some(reason_of(error)), None),
            Verdict::Away(error) | Verdict::Suspected(error) => self.outage(reason_of(error), now),
            Verdict::Good if self.verified && self.key.is_some() => (Phase::Ready, None, None),
            Verdict::Unreadable(error) if self.verified && self.key.is_some() => {
                (Phase::Degraded, Some(key_unreadable(error)), None)
            }
            Verdict::Unreadable(error) => self.outage(reason_of(error), now),
            Verdict::Good | Verdict::Unknown => self.outage(no_contact(&self.rules.scope), now),
        }
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
}

/// When keys are wiped after a refusal that is confirmed since then. A policy that a tool applies anew looks like a
/// refusal for seconds, and a wipe cannot be undone; but the refusal may be as old as the last contact.
pub(super) fn wipe_at(confirmed: BootTime, last_contact: Option<BootTime>) -> BootTime {
    let late = last_contact.map(|contact| contact.plus(WIPE_LIMIT));
    let at = confirmed.plus(WIPE_DELAY);
    late.map_or(at, |late| at.min(late)).max(confirmed)
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
        Event::Judged { verdict, worked, lost } => {
            state.judged(verdict, worked, lost, now);
            if worked {
                effects.push(Effect::SaveIdentity);
            }
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
