//! The state of the cluster: its key, its tokens, its replicas, and the effects of faults.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::effect::{Effect, Trouble};
use super::key::{Key, Version};
use super::tokens::{Role, Token};
use crate::clock::{Purpose, simulated};

/// The names that the agents configure.
pub(in super::super) const KEY: &str = "kms-key";
pub(in super::super) const OLD_KEY: &str = "old-key";
pub(in super::super) const REPLICAS: usize = 3;
/// An answer that takes longer than this is as good as none.
const USABLE: Duration = Duration::from_millis(300);
/// States of the key that a lagging standby may still answer with.
const HISTORY: usize = 32;

/// Which server's habits and words the model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Flavour {
    /// Standbys forward every request to the active replica.
    Vault,
    /// Standbys answer reads and Transit calls themselves, with the state that they have.
    OpenBao,
}

pub(in super::super) struct Service {
    pub flavour: Flavour,
    /// The key as it is without effects.
    pub key: Key,
    /// A second key that is only for decryption.
    pub old_key: Key,
    pub effects: Vec<(u64, Effect)>,
    pub active: usize,
    pub cluster_id: String,
    pub role: Role,
    pub tokens: BTreeMap<String, Token>,
    /// The agents that a replica itself has answered with 403 since this was last cleared.
    pub refused: BTreeSet<usize>,
    /// The nodes whose credentials were refused since they were looked at.
    pub wrong_logins: BTreeSet<usize>,
    /// When the newest version of any key was made, in seconds.
    last_created: i64,
    /// How many of the replicas the agents know.
    pub addresses: usize,
    /// The lag of the standbys without an effect.
    pub usual_lag: Duration,
    /// Whether the policy also grants `create`.
    pub may_create: bool,
    /// The agent whose request has created a key, and the effect of that.
    pub created_by: Option<(usize, u64)>,
    /// The end of the longest pause that an answer has asked for, as far as it counts.
    pub pause: Duration,
    history: VecDeque<(Duration, Option<Key>)>,
    made: u64,
    next_effect: u64,
    /// Each request that reached a replica or got lost: when, by which agent, and what.
    pub requests: Vec<Sent>,
    /// How many were taken out before these.
    taken: usize,
}

/// A request that an agent sent.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Sent {
    pub at: Duration,
    pub node: usize,
    pub operation: &'static str,
    /// What the agent says it is for.
    pub purpose: Purpose,
    /// Whether it wraps a local KEK: nothing else is bound to associated data.
    pub wraps_kek: bool,
    /// Whether the server's audit log has it.
    pub audited: bool,
}

/// What a correct client without memory would see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Truth {
    Works,
    Refuses,
    /// Another key than before answers under the name.
    Differs,
    Away,
}

impl Service {
    pub(in super::super) fn new(flavour: Flavour, usual_lag: Duration, role: Role) -> Self {
        let version = |made, created| Version { created, material: made };
        let mut service = Self {
            flavour,
            key: Key::new(version(1, server_time() - 40 * 86_400)),
            old_key: Key::new(version(2, server_time() - 80 * 86_400)),
            effects: Vec::new(),
            active: 0,
            cluster_id: "00000000-0000-4000-8000-000000000000".into(),
            role,
            tokens: BTreeMap::new(),
            refused: BTreeSet::new(),
            wrong_logins: BTreeSet::new(),
            last_created: 0,
            addresses: REPLICAS,
            usual_lag,
            may_create: false,
            created_by: None,
            pause: Duration::ZERO,
            history: VecDeque::new(),
            made: 2,
            next_effect: 0,
            requests: Vec::new(),
            taken: 0,
        };
        service.key.rotate(version(3, server_time() - 10 * 86_400));
        service.made = 3;
        service.record();
        service
    }

    /// Notes a request. Returns its number.
    pub(super) fn sent(&mut self, sent: Sent) -> usize {
        self.requests.push(sent);
        self.taken + self.requests.len() - 1
    }

    /// Notes whether the audit log has a request.
    pub(super) fn answered(&mut self, number: usize, audited: bool) {
        let place = number.checked_sub(self.taken).expect("requests are taken out when they have ended");
        self.requests[place].audited = audited;
    }

    /// Takes out the requests that were sent before this time. All of them must have ended.
    pub(in super::super) fn take_requests(&mut self, before: Duration) -> Vec<Sent> {
        let count = self.requests.partition_point(|sent| sent.at < before);
        self.taken += count;
        self.requests.drain(..count).collect()
    }

    /// A key version that is made now.
    pub(in super::super) fn make_version(&mut self) -> Version {
        self.made += 1;
        // No two in one second: nobody restores a key within it and rotates it again.
        self.last_created = server_time().max(self.last_created + 1);
        Version { created: self.last_created, material: self.made }
    }

    /// How many key versions have been made.
    pub(in super::super) fn versions_made(&self) -> usize {
        usize::try_from(self.made).unwrap()
    }

    /// Starts an effect. The number ends it.
    pub(in super::super) fn start(&mut self, effect: Effect) -> u64 {
        self.next_effect += 1;
        if let Effect::NoLeader(_) = effect {
            self.active = (self.active + 1) % REPLICAS;
        }
        self.effects.push((self.next_effect, effect));
        self.record();
        self.next_effect
    }

    pub(in super::super) fn end(&mut self, effect: u64) {
        self.effects.retain(|(number, _)| *number != effect);
        self.record();
    }

    /// Restores the key instead of one that a request has created.
    pub(in super::super) fn restore_created(&mut self) {
        if let Some((_, effect)) = self.created_by.take() {
            self.end(effect);
        }
    }

    /// Rotates the key as it is now. Returns whether it is another key than it should be: a version that is made on a
    /// rolled-back key does not survive its repair.
    pub(in super::super) fn rotate(&mut self) -> bool {
        let version = self.make_version();
        let rolled = self.effects.iter_mut().find_map(|(_, effect)| match effect {
            Effect::RolledBack(key) | Effect::Replaced(key) => Some(key),
            _ => None,
        });
        let differs = rolled.is_some();
        rolled.unwrap_or(&mut self.key).rotate(version);
        self.record();
        differs
    }

    /// The key, as the active replica has it; `None` when it is deleted.
    pub(in super::super) fn key_now(&self) -> Option<Key> {
        let effects = || self.effects.iter().map(|(_, effect)| effect);
        if effects().any(|effect| matches!(effect, Effect::KeyDeleted)) {
            return None;
        }
        let replaced = effects().find_map(|effect| match effect {
            Effect::Replaced(key) | Effect::RolledBack(key) => Some(key.clone()),
            _ => None,
        });
        let mut key = replaced.unwrap_or_else(|| self.key.clone());
        for effect in effects() {
            match effect {
                Effect::SoftDeleted => key.soft_deleted = true,
                Effect::MinVersions(encryption, decryption) if *encryption <= key.latest() => {
                    (key.min_encryption, key.min_decryption) = (*encryption, *decryption);
                }
                _ => {}
            }
        }
        Some(key)
    }

    /// Remembers the state of the key for lagging standbys.
    pub(in super::super) fn record(&mut self) {
        self.history.push_back((now(), self.key_now()));
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }

    /// The key, as a replica has it.
    pub(super) fn key_at(&self, replica: usize) -> Option<Key> {
        if replica == self.active || self.flavour == Flavour::Vault {
            return self.key_now();
        }
        let at = now().saturating_sub(self.lag());
        let mut states = self.history.iter().rev();
        let state = states.find(|(since, _)| *since <= at).or(self.history.front());
        state.and_then(|(_, key)| key.clone())
    }

    fn lag(&self) -> Duration {
        let lags = self.effects.iter().filter_map(|(_, effect)| match effect {
            Effect::Lag(lag) => Some(*lag),
            _ => None,
        });
        lags.max().unwrap_or_default().max(self.usual_lag)
    }

    pub(super) fn has(&self, which: impl Fn(&Effect) -> bool) -> bool {
        self.effects.iter().any(|(_, effect)| which(effect))
    }

    pub(super) fn is_sealed(&self, replica: usize) -> bool {
        let sealed =
            |effect: &Effect| matches!(effect, Effect::Sealed(of) if of.is_none_or(|of| of == replica));
        self.has(sealed) || self.is_removed(replica)
    }

    pub(super) fn is_removed(&self, replica: usize) -> bool {
        self.has(|effect| matches!(effect, Effect::Removed(of) if of.is_none_or(|of| of == replica)))
    }

    pub(super) fn is_disaster(&self, replica: usize) -> bool {
        self.has(|effect| matches!(effect, Effect::Disaster(of) if of.is_none_or(|of| of == replica)))
    }

    /// Since when there is no active replica.
    pub(super) fn no_leader(&self) -> Option<Duration> {
        self.effects.iter().find_map(|(_, effect)| match effect {
            Effect::NoLeader(since) => Some(*since),
            _ => None,
        })
    }

    /// The rights of the policy: to encrypt, to decrypt, to read the key.
    pub(in super::super) fn rights(&self) -> (bool, bool, bool) {
        self.effects.iter().fold((true, true, true), |rights, (_, effect)| match effect {
            Effect::RightsLost { encrypt, decrypt, read } => {
                (rights.0 && !encrypt, rights.1 && !decrypt, rights.2 && !read)
            }
            _ => rights,
        })
    }

    /// What is wrong with the network between an agent and a replica, the worst first.
    pub(in super::super) fn troubles(&self, of_node: usize, of_replica: usize) -> Vec<Trouble> {
        let mut found: Vec<Trouble> = self
            .effects
            .iter()
            .filter_map(|(_, effect)| match effect {
                Effect::Path { node, replica, trouble }
                    if node.is_none_or(|node| node == of_node)
                        && replica.is_none_or(|replica| replica == of_replica) =>
                {
                    Some(*trouble)
                }
                _ => None,
            })
            .collect();
        let rank = |trouble: &Trouble| match trouble {
            Trouble::Hang => 0,
            Trouble::Reset => 1,
            Trouble::Page(_) => 2,
            Trouble::NoHealth(_) => 3,
            Trouble::Slow(_) => 4,
        };
        found.sort_by_key(rank);
        found
    }

    /// What a correct client on `node` would see, with a live token or with these credentials.
    pub(in super::super) fn truth(&self, node: usize, secret_id: &str) -> Truth {
        let slow = |replica| {
            let troubles = self.troubles(node, replica);
            troubles.iter().any(|trouble| matches!(trouble, Trouble::Slow(by) if *by > USABLE))
        };
        let general = self.no_leader().is_some()
            || self.has(|effect| matches!(effect, Effect::Throttled(_) | Effect::Broken));
        // A lock-out says nothing of the node, and ends by itself.
        if general
            || self.is_locked_out(node)
            || (0..self.addresses).all(|replica| slow(replica) || self.is_away(node, replica))
        {
            Truth::Away
        } else if self.refuses(node, secret_id) {
            Truth::Refuses
        } else if self.differs() {
            Truth::Differs
        } else {
            Truth::Works
        }
    }

    /// Whether the service itself refuses, whether it can be reached or not.
    pub(in super::super) fn refuses(&self, node: usize, secret_id: &str) -> bool {
        let (encrypt, decrypt, _) = self.rights();
        if self.is_locked_out(node) {
            return false;
        }
        let known = self.has_token(node) || self.role.secret_id == secret_id;
        !(encrypt && decrypt && known && self.key_now().is_some_and(|key| !key.soft_deleted))
    }

    /// Whether the node has a token that is alive.
    pub(in super::super) fn has_token(&self, node: usize) -> bool {
        self.tokens.values().any(|token| token.node == node && token.is_alive())
    }

    /// Whether the node has no token, and the lock-out of its role hides whether it would get one.
    fn is_locked_out(&self, node: usize) -> bool {
        let locked = self.has(|effect| matches!(effect, Effect::RoleLocked)) || self.role.is_locked();
        locked && !self.has_token(node)
    }

    /// Whether another key than before is under the name.
    pub(in super::super) fn differs(&self) -> bool {
        self.key_now().is_some_and(|key| key.versions != self.key.versions)
    }

    /// Whether no replica has this version of the key, made at that time, not even one that lags.
    pub(in super::super) fn has_nowhere(&self, (version, created): (u32, i64)) -> bool {
        let has = |key: Key| key.versions.get(&version).is_some_and(|made| made.created == created);
        !(0..REPLICAS).any(|replica| self.key_at(replica).is_some_and(has))
    }

    /// Whether no replica answers an agent as a server that can serve: each hangs, is gone, or is sealed.
    pub(in super::super) fn is_dark(&self, node: usize) -> bool {
        (0..self.addresses).all(|replica| self.is_away(node, replica))
    }

    fn is_away(&self, node: usize, replica: usize) -> bool {
        let troubles = self.troubles(node, replica);
        let gone = |trouble: &Trouble| matches!(trouble, Trouble::Hang | Trouble::Reset | Trouble::Page(_));
        troubles.iter().any(gone) || self.is_sealed(replica) || self.is_disaster(replica)
    }
}

/// The simulated time since boot: also the servers' clock.
pub(in super::super) fn now() -> Duration {
    simulated::elapsed().unwrap_or_default()
}

/// The servers' clock, in seconds since 1970.
pub(super) fn server_time() -> i64 {
    i64::try_from((simulated::EPOCH + now()).as_secs()).unwrap()
}
