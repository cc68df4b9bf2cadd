//! The oracle: knows what is true in the model, and compares what the agents do with it.
//!
//! `call` rules are checked at each call of an API server, the others (`watch`) at each step.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

pub(super) use super::rule::Rule;

use super::model::effect::Effect;
use super::model::service::{KEY, OLD_KEY, now};
use super::world::{Stored, World};
use crate::health::{Announce, ReasonKind, Snapshot};
use crate::key_service::{KeyScope, key_id};

/// How late a re-creation may be noticed: one `key_check_interval` with its jitter, and the time of a read.
const RECREATION_NOTICED: Duration = Duration::from_secs(60 * 11 / 10 + 4);

/// How long an agent takes to believe a rollback: three reads, five seconds apart with their jitter, of which the first
/// follows a call.
const ROLLBACK_CONFIRMED: Duration = Duration::from_secs(20);

pub(super) struct Violation {
    pub rule: Rule,
    pub text: String,
    pub at: Duration,
}

#[derive(Default)]
pub(super) struct Oracle {
    violations: Mutex<Vec<Violation>>,
    /// Which key each key_id named first.
    materials: Mutex<BTreeMap<String, u64>>,
    /// When versions of the key were last gone that agents may have seen.
    lost: Mutex<Option<Duration>>,
    /// When the key was last replaced by another one.
    replaced: Mutex<Option<Duration>>,
    /// The longest time after a re-creation at which the old key_id was used for the new key.
    pub longest_window: Mutex<Duration>,
    /// How many calls the API server of each node has begun.
    calls: Mutex<BTreeMap<usize, u64>>,
    /// Whether the last Encrypt of each node was refused, and when.
    refused: Mutex<BTreeMap<usize, Instant>>,
}

impl Oracle {
    pub(super) fn violated(&self, rule: Rule, text: String) {
        let mut violations = self.violations.lock().unwrap();
        // One of each rule is enough.
        if violations.iter().all(|violation| violation.rule != rule) {
            violations.push(Violation { rule, text, at: now() });
        }
    }

    /// The first violation.
    pub(super) fn failure(&self) -> Option<(Rule, String)> {
        let violations = self.violations.lock().unwrap();
        violations.first().map(|violation| (violation.rule, describe(violation)))
    }

    pub(super) fn take(&self) -> Vec<Violation> {
        std::mem::take(&mut *self.violations.lock().unwrap())
    }

    pub(super) fn call_begins(&self, node: usize) {
        *self.calls.lock().unwrap().entry(node).or_default() += 1;
    }

    pub(super) fn calls(&self, node: usize) -> u64 {
        self.calls.lock().unwrap().get(&node).copied().unwrap_or_default()
    }

    /// An Encrypt has ended.
    pub(super) fn encrypted(&self, node: usize, refused: bool) {
        let mut all = self.refused.lock().unwrap();
        if refused {
            all.insert(node, Instant::now());
        } else {
            all.remove(&node);
        }
    }

    /// When the last Encrypt of a node was refused, if it was.
    pub(super) fn refused_encrypt(&self, node: usize) -> Option<Instant> {
        self.refused.lock().unwrap().get(&node).copied()
    }

    /// The key was replaced by another one under its name, or a version was made on a rolled-back key.
    pub(super) fn key_replaced(&self) {
        *self.replaced.lock().unwrap() = Some(now());
    }

    /// Versions of the key are gone that agents may have seen.
    pub(super) fn versions_lost(&self) {
        *self.lost.lock().unwrap() = Some(now());
    }

    /// How long it takes from now until every agent has confirmed that versions are gone.
    pub(super) fn rollback_unconfirmed(&self) -> Duration {
        let lost = *self.lost.lock().unwrap();
        lost.map_or(Duration::ZERO, |lost| (lost + ROLLBACK_CONFIRMED).saturating_sub(now()))
    }

    /// The machines were suspended: nothing was looked at meanwhile.
    pub(super) fn suspended(&self) {
        self.replaced.lock().unwrap().iter_mut().for_each(|at| *at = now());
    }

    /// Whether a seed was wrapped by the key as it should be, or by the key for decryption only, under its own key_id.
    /// A seed that was wrapped within the window after a re-creation has the key_id of the other key.
    pub(super) fn is_readable(&self, world: &World, stored: &Stored) -> bool {
        let service = world.service.lock().unwrap();
        [(KEY, &service.key), (OLD_KEY, &service.old_key)].into_iter().any(|(name, key)| {
            let scope = KeyScope { namespace: String::new(), mount: "transit".into(), key: name.into() };
            let is_its = |version: u32, created| key_id::derive(&scope, version, created, 0) == stored.key_id;
            let mut versions = key.versions.iter().filter(|(_, made)| made.material == stored.material);
            versions.any(|(version, made)| is_its(*version, made.created))
        })
    }

    /// Whether `key_id` is that of the version of the key that has this material: within the window after a re-creation
    /// it first named another one. Without the right to read the key, no agent can know.
    pub(super) fn is_named(&self, world: &World, key_id: &str, material: u64) -> bool {
        let (key, may_read) = {
            let service = world.service.lock().unwrap();
            (service.key_now(), service.rights().2)
        };
        let scope = KeyScope { namespace: String::new(), mount: "transit".into(), key: KEY.into() };
        !may_read
            || key.is_some_and(|key| {
                let mut versions = key.versions.iter();
                versions.any(|(version, made)| {
                    made.material == material && key_id::derive(&scope, *version, made.created, 0) == key_id
                })
            })
    }

    /// An Encrypt succeeded, with the snapshots before and after it.
    pub(super) fn wrapped(
        &self,
        node: usize,
        key_id: &str,
        (material, is_named): (u64, bool),
        before: &Snapshot,
        after: &Snapshot,
    ) {
        let first = *self.materials.lock().unwrap().entry(key_id.to_owned()).or_insert(material);
        if first != material && !is_named {
            let window = (*self.replaced.lock().unwrap()).map(|at| now().saturating_sub(at));
            match window {
                Some(window) if window <= RECREATION_NOTICED => {
                    let mut longest = self.longest_window.lock().unwrap();
                    *longest = window.max(*longest);
                }
                _ => self.violated(
                    Rule::OneKeyPerKeyId,
                    format!("agent {node}: {key_id} named key {first}, and now key {material}"),
                ),
            }
        }
        let forbids = |snapshot: &Snapshot| {
            let kind = snapshot.reason.as_ref().map(|reason| reason.kind);
            kind.is_some_and(ReasonKind::forbids_wrapping) && snapshot.announce == Announce::Refused
        };
        let local_refused =
            |snapshot: &Snapshot| snapshot.local_keks.is_some() && snapshot.primary.wipe_at.is_some();
        if (forbids(before) && forbids(after)) || (local_refused(before) && local_refused(after)) {
            let text = format!("agent {node}: wrapped although {}", after.line());
            self.violated(Rule::NoWrapUnderRejected, text);
        }
    }
}

pub(super) fn describe(violation: &Violation) -> String {
    format!("{:?} at {:.1} s: {}", violation.rule, violation.at.as_secs_f64() - 1000.0, violation.text)
}

/// Whether an effect raises a minimum version: keys of lower versions are then wiped.
pub(super) fn raises_minimum(effect: &Effect) -> bool {
    matches!(effect, Effect::MinVersions(_, decryption) if *decryption > 1)
}
