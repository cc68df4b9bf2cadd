//! What the oracle watches at each step: the snapshot of each agent beside the truth of the model.

use std::time::Duration;

use tokio::time::Instant;

use super::budget::Budget;
use super::causes::Causes;
use super::model::effect::Effect;
use super::model::service::{REPLICAS, Truth};
use super::node::Node;
use super::oracle::{Rule, raises_minimum};
use super::world::World;
use crate::agent::readiness::is_decided;
use crate::clock::BootTime;
use crate::health::{Announce, Phase, ReasonKind};

/// How soon a refusal must show, and local KEKs be wiped.
const REFUSAL: Duration = Duration::from_secs(90);
/// How soon an outage must show.
const OUTAGE: Duration = Duration::from_secs(15);
/// How soon `/healthz` says so, when it is asked each second.
const OUTAGE_ASKED: Duration = Duration::from_secs(7);
/// How soon an outage must show where something else answers for the health: by a read at its interval.
const OUTAGE_BLOCKED: Duration = Duration::from_secs(60 * 11 / 10 + 15);
/// The time between two steps, and a little more.
const STEP_TIME: Duration = Duration::from_secs(2);
/// Longest time for the calls that make a local KEK, when every answer is slow.
const PREPARED: Duration = Duration::from_secs(10);
/// How long a cause may have effects: keys that a refusal wiped are not back at once.
const AFTERMATH: Duration = Duration::from_secs(100);
/// Longest time without a request: the longest interval with its jitter, and a call that hangs.
const BLIND: Duration = Duration::from_secs(90 * 11 / 10 + 21);
/// How soon after the start the verdict must be in, when the key service answers. An address that hangs delays the
/// confirmation of a refusal, and a login that failed in an outage that of a rollback.
const READY: Duration = Duration::from_secs(20);
/// How soon a refusal ends after its cause, without a call and after one, and a step and a confirmation more.
const RESTORED: Duration = Duration::from_secs(30 + 3);
const RESTORED_CALLED: Duration = Duration::from_secs(6 + 3);
/// An agent that is younger has not seen enough.
const SETTLED: Duration = Duration::from_secs(20);

/// What is remembered of one node between two steps.
pub(super) struct Watch {
    node: usize,
    /// What a correct client would see, whether it may read the key, and since when.
    truth: ((Truth, bool), Instant),
    dark_since: Option<Instant>,
    /// Since when nothing at all is wrong, and when a call then was first made while Status refused.
    clean: Option<Instant>,
    called: Option<Instant>,
    /// When an Encrypt was first refused then, and when last, whatever Status says.
    encrypts: Option<(Instant, Instant)>,
    calls: u64,
    /// Until when an answer has asked for a pause.
    pause: Instant,
    last_refusal: Option<Instant>,
    last_minimum: Option<Instant>,
    last_sealed: Option<Instant>,
    /// The agent's run, its local KEKs, and its last contact at the last step.
    keks: Option<(Instant, usize, Option<BootTime>)>,
    /// Whether the agent has known at the last step that the key is missing.
    knew_missing: bool,
    /// Whether Status refused at the last step.
    refuses: bool,
    /// The kind of the reason at the last step.
    reason: Option<ReasonKind>,
    causes: Causes,
    /// The version of the key that the agent knows, and when that was made.
    known: Option<(u32, i64)>,
    /// Since when another key has been under the name, for all that the agent knows, and on every replica.
    mismatch: Option<Instant>,
    differs: Option<Instant>,
    /// Whether a local KEK was made since the last step.
    made_kek: bool,
    /// What it was at the last step, for the log.
    state: Option<(Phase, Option<ReasonKind>)>,
    /// The oldest contact to a key service at the last step.
    contact: Option<BootTime>,
    /// Whether the verdict was in, for the run that began then.
    decided: Option<Instant>,
    last_request: Instant,
    seen: usize,
    budget: Budget,
}

impl Watch {
    pub(super) fn new(node: usize, services: f64) -> Self {
        let now = Instant::now();
        Self {
            node,
            truth: ((Truth::Works, true), now),
            dark_since: None,
            clean: None,
            called: None,
            encrypts: None,
            calls: 0,
            pause: now,
            last_refusal: None,
            last_minimum: None,
            last_sealed: None,
            keks: None,
            knew_missing: false,
            refuses: false,
            reason: None,
            causes: Causes::default(),
            known: None,
            mismatch: None,
            differs: None,
            made_kek: false,
            state: None,
            contact: None,
            decided: None,
            last_request: now,
            seen: 0,
            budget: Budget::new(services, f64::from(u32::try_from(REPLICAS).unwrap())),
        }
    }

    /// Starts the times again: the machines were suspended.
    pub(super) fn suspended(&mut self) {
        let now = Instant::now();
        self.truth.1 = now;
        self.last_request = now;
        self.last_refusal = Some(now);
        self.dark_since = self.dark_since.map(|_| now);
        (self.clean, self.called) = (None, None);
        self.causes.suspended();
    }

    pub(super) fn step(&mut self, world: &World, node: &mut Node) {
        let now = Instant::now();
        let (dark, raised, sealed, clean) = {
            let mut service = world.service.lock().unwrap();
            let truth = (service.truth(self.node, &node.secret_id), service.rights().2);
            if truth != self.truth.0 {
                self.truth = (truth, now);
            }
            self.causes.note(&service, self.node, &node.secret_id);
            let differs = self.known.is_some_and(|known| service.has_nowhere(known));
            self.differs = differs.then(|| self.differs.unwrap_or(now));
            let told = service.refused.remove(&self.node);
            if told
                || service.wrong_logins.remove(&self.node)
                || service.refuses(self.node, &node.secret_id)
                || service.differs()
                || !service.rights().2
            {
                self.last_refusal = Some(now);
            }
            let has = |which: fn(&Effect) -> bool| service.effects.iter().any(|(_, effect)| which(effect));
            if service.pause > super::model::service::now() {
                self.pause = now;
            }
            (
                service.is_dark(self.node),
                has(raises_minimum),
                has(|effect| matches!(effect, Effect::Sealed(_) | Effect::Removed(_))),
                truth == (Truth::Works, true) && service.effects.is_empty(),
            )
        };
        self.clean = if clean { self.clean.or(Some(now)) } else { None };
        self.dark_since = if dark { self.dark_since.or(Some(now)) } else { None };
        self.last_minimum = if raised { Some(now) } else { self.last_minimum };
        self.last_sealed = if sealed { Some(now) } else { self.last_sealed };
        self.count(world, node.budgets);
        if node.api_server_panicked() {
            world
                .oracle
                .violated(Rule::RightBytes, format!("API server {}: an answer is not valid", self.node));
        }
        let Some(agent) = &mut node.agent else {
            (self.keks, self.refuses, self.reason, self.last_request) = (None, false, None, now);
            (self.known, self.mismatch) = (None, None);
            return;
        };
        if let Some(ended) = agent.ended() {
            world.oracle.violated(Rule::TasksRun, format!("agent {}: {ended}", self.node));
        }
        agent.go_on();
        let (snapshot, age, started) = (agent.snapshot(), agent.age(), agent.started);
        let state = (snapshot.phase, snapshot.reason.as_ref().map(|reason| reason.kind));
        if self.state != Some(state) {
            self.state = Some(state);
            world.log.add(format_args!("agent {} is {}", self.node, snapshot.line()));
        }
        let violated = |rule, text: &str| {
            let text = format!("agent {}: {text}; its state: {}", self.node, snapshot.line());
            world.oracle.violated(rule, text);
        };
        if now.duration_since(self.last_request.max(started)) > BLIND {
            violated(Rule::NeverBlind, "no request for 120 s");
            self.last_request = now;
        }
        let stands = |since: Instant| now.duration_since(since.max(started));
        let noticed = match self.causes.blocks_health() {
            true => OUTAGE_BLOCKED,
            false if node.asked => OUTAGE_ASKED,
            false => OUTAGE,
        };
        if let Some(since) = self.dark_since
            && stands(since) > noticed
            && age > SETTLED
            && snapshot.phase == Phase::Ready
        {
            violated(Rule::OutageNoticed, "ready, and every address has gone for too long");
        }
        // Whether its version is not there any more, or not yet, no agent can tell that may not read the key.
        let knowable = self.truth.0.1 || !self.causes.replaced;
        let answers = knowable && matches!(self.truth.0.0, Truth::Works | Truth::Refuses | Truth::Differs);
        if is_decided(&snapshot) {
            self.decided = Some(started);
        } else if answers
            && self.decided != Some(started)
            && stands(self.truth.1) > READY
            && self.pause.elapsed() > READY
        {
            violated(Rule::ReadyInTime, "no verdict in time after the start");
        }
        let kind = snapshot.reason.as_ref().map(|reason| reason.kind);
        let refused = self.truth.0.0 == Truth::Refuses && stands(self.truth.1) > REFUSAL;
        if refused && snapshot.announce == Announce::Ok {
            violated(Rule::RefusalShown, "Status is ok 90 s after a refusal");
        }
        let mismatch = kind.is_some_and(ReasonKind::is_mismatch);
        self.mismatch = mismatch.then(|| self.mismatch.unwrap_or(now));
        self.known = snapshot.primary.key.as_ref().map(|key| (key.version, key.created));
        // Of a key that has just been replaced, or that is back, it may: who makes a local KEK reads the key.
        let long = |since: Option<Instant>| since.is_some_and(|since| since.elapsed() > PREPARED);
        if std::mem::take(&mut self.made_kek) && long(self.mismatch) && long(self.differs) {
            violated(Rule::NoWrapUnderRejected, "a local KEK was made under a key that is not in use");
        }
        let held = snapshot.local_keks.as_ref().map_or(0, |keks| keks.keks);
        // What another key under the name refuses says nothing of ours.
        if refused && agent.refused_keys() > 0 && !mismatch {
            violated(Rule::WipeInTime, "local KEKs are in memory 90 s after a refusal");
        }
        let recent = |at: Option<Instant>| at.is_some_and(|at| now.duration_since(at) < AFTERMATH);
        let sealed_denies = node.settings.health.sealed_is_denied && recent(self.last_sealed);
        // Another key under the name is refused until an administrator accepts it.
        let differs = self.causes.replaced && (mismatch || kind == Some(ReasonKind::KeyUnusable));
        let innocent = !recent(self.last_refusal) && !sealed_denies && !differs;
        let refuses = snapshot.announce == Announce::Refused;
        // A refusal stands through an outage, on purpose: whoever refuses us may block the way, too.
        let works = self.truth.0.0 == Truth::Works && stands(self.truth.1) > AFTERMATH;
        if refuses && innocent && (works || !self.refuses) {
            violated(Rule::OutageIsNoRefusal, "Status refuses, and nothing refused for 100 s");
        }
        self.refuses = refuses;
        let calls = world.oracle.calls(self.node);
        let called = std::mem::replace(&mut self.calls, calls) < calls;
        let restored = refuses && matches!(kind, Some(ReasonKind::Denied | ReasonKind::KeyMissing));
        if let Some(clean) = self.clean.filter(|_| restored) {
            self.called = self.called.or((called && clean < now).then_some(now));
            let late = self.called.is_some_and(|called| now.duration_since(called) > RESTORED_CALLED);
            if self.pause.elapsed() > READY && (stands(clean) > RESTORED || late) {
                violated(Rule::RestoredInTime, "it still refuses, and nothing is wrong any more");
            }
        } else {
            self.called = None;
        }
        let refused = world.oracle.refused_encrypt(self.node);
        self.encrypts = match (refused.filter(|_| !differs), self.clean) {
            (Some(last), Some(clean)) if last > clean.max(started) => {
                Some((self.encrypts.map_or(last, |(first, _)| first), last))
            }
            _ => None,
        };
        if let Some((first, last)) = self.encrypts
            && last.duration_since(first) > RESTORED_CALLED
            && self.pause.elapsed() > READY
        {
            violated(Rule::RestoredInTime, "Encrypts are refused, and nothing is wrong any more");
        }
        if let (Some((run, before, Some(contact))), Some(policy)) = (self.keks, node.settings.local_kek)
            && run == started
            && before > 0
            && held == 0
            && innocent
            // An administrator has just accepted another key.
            && !self.reason.is_some_and(ReasonKind::is_mismatch)
            && !recent(self.last_minimum)
            && BootTime::now().since(contact) < policy.max_offline
        {
            violated(Rule::NoEarlyWipe, "local KEKs are gone before max_offline, and nothing refused");
        }
        let created = world.service.lock().unwrap().created_by.is_some_and(|(by, _)| by == self.node);
        if created && self.knew_missing {
            violated(Rule::NoKeyCreated, "it created a key, and knew that the key is missing");
        }
        if let Some(reason) = snapshot.reason.as_ref().filter(|reason| self.reason != Some(reason.kind))
            && !self.causes.fit(reason)
        {
            violated(
                Rule::TrueCause,
                &format!("nothing like its reason was wrong for 100 s: {:?}: {}", reason.kind, reason.text),
            );
        }
        if !self.causes.fit_addresses(&format!("{:?}", snapshot.primary.addresses)) {
            violated(Rule::TrueCause, "an address is said not to be Vault, and nothing else answered");
        }
        self.reason = kind;
        if let Some(keks) = &snapshot.local_keks
            && keks.keks + keks.missing > world.most_wrapped_keys()
        {
            violated(Rule::ListBounded, "too many wrapped keys in the list");
        }
        self.knew_missing = !created && kind == Some(ReasonKind::KeyMissing);
        self.keks = Some((started, held, snapshot.last_contact));
    }

    /// Whether, for all that is known, some local KEKs were not confirmed by their key service for `max_offline`.
    pub(super) fn out_of_reach(&mut self, node: &Node) -> bool {
        let Some(policy) = node.settings.local_kek else { return false };
        let contacts = node.agent.as_ref().map(|agent| {
            let snapshot = agent.snapshot();
            snapshot.services().map(|service| service.last_contact).min().flatten()
        });
        let before = std::mem::replace(&mut self.contact, contacts.flatten());
        before.is_none_or(|contact| BootTime::now().since(contact) + STEP_TIME >= policy.max_offline)
    }

    /// Counts the requests since the last step.
    fn count(&mut self, world: &World, budgets: u64) {
        let service = world.service.lock().unwrap();
        let new = &service.requests[self.seen..];
        self.seen = service.requests.len();
        self.budget.update(world.oracle.calls(self.node), budgets);
        for sent in new.iter().filter(|sent| sent.node == self.node) {
            self.last_request = Instant::now();
            self.made_kek |= sent.wraps_kek;
            if self.budget.sent(sent) {
                let text = format!(
                    "agent {}: too many requests at once, the last: {}, for {}",
                    self.node,
                    sent.operation,
                    sent.purpose.name()
                );
                world.oracle.violated(Rule::Budget, text);
            }
        }
    }
}
