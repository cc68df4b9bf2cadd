//! The kinds of fault, what each does to the model and to the nodes, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use super::chance::Chance;
use super::model::effect::{Effect, Trouble};
use super::model::key::Key;
use super::model::service::{REPLICAS, now};
use super::node::Node;
use super::world::World;
use crate::clock::simulated;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Hang,
    Reset,
    Slow,
    Page,
    Sealed,
    Election,
    Lag,
    Disaster,
    Throttled,
    NoHealth,
    Broken,
    RightsLost,
    TokensRevoked,
    CredentialsRefused,
    KeyDeleted,
    KeyReplaced,
    RolledBack,
    Rotated,
    Crashed,
    Reloaded,
    Suspended,
    ApiServerRestarted,
}

impl Kind {
    pub(super) const ALL: [Self; 22] = [
        Self::Hang,
        Self::Reset,
        Self::Slow,
        Self::Page,
        Self::Sealed,
        Self::Election,
        Self::Lag,
        Self::Disaster,
        Self::Throttled,
        Self::NoHealth,
        Self::Broken,
        Self::RightsLost,
        Self::TokensRevoked,
        Self::CredentialsRefused,
        Self::KeyDeleted,
        Self::KeyReplaced,
        Self::RolledBack,
        Self::Rotated,
        Self::Crashed,
        Self::Reloaded,
        Self::Suspended,
        Self::ApiServerRestarted,
    ];
}

/// A fault of the schedule. The times count from the start of the simulation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub kind: Kind,
    pub start: Duration,
    pub end: Duration,
    /// Decides the variant and the target.
    pub seed: u64,
}

/// A fault that has started, and what ends it.
pub(super) struct Started {
    effects: Vec<u64>,
    node: Option<usize>,
    /// The key that an administrator keeps at the end.
    keeps_key: bool,
}

impl Fault {
    /// Starts the fault.
    pub(super) async fn start(&self, world: &Arc<World>, nodes: &mut [Node]) -> Started {
        let mut chance = Chance::new(self.seed);
        let node = usize::try_from(chance.below(nodes.len() as u64)).unwrap();
        let replica = chance.percent(40).then(|| usize::try_from(chance.below(REPLICAS as u64)).unwrap());
        let all_or_one = chance.percent(70).then_some(node).filter(|_| nodes.len() > 1);
        let mut started = Started { effects: Vec::new(), node: None, keeps_key: false };
        let path = |trouble| vec![Effect::Path { node: all_or_one, replica, trouble }];
        let effects = match self.kind {
            Kind::Hang => path(Trouble::Hang),
            Kind::Reset => path(Trouble::Reset),
            Kind::Slow => path(Trouble::Slow(chance.time(50..=2800))),
            Kind::Page => path(Trouble::Page(chance.pick(&[502, 503, 403, 200]))),
            Kind::NoHealth => path(Trouble::NoHealth(chance.pick(&[403, 404]))),
            Kind::Sealed if chance.percent(30) => vec![Effect::Removed(replica)],
            Kind::Sealed => vec![Effect::Sealed(replica)],
            Kind::Disaster => vec![Effect::Disaster(replica)],
            Kind::Election => vec![Effect::NoLeader(now())],
            Kind::Lag => vec![Effect::Lag(chance.time(1000..=8000))],
            Kind::Throttled => vec![Effect::Throttled(chance.pick(&[None, Some(1), Some(20), Some(3600)]))],
            Kind::Broken => vec![Effect::Broken],
            Kind::RightsLost => {
                let lost = chance.pick(&[
                    (true, true, true),
                    (true, false, false),
                    (false, true, false),
                    (false, false, true),
                ]);
                vec![Effect::RightsLost { encrypt: lost.0, decrypt: lost.1, read: lost.2 }]
            }
            Kind::TokensRevoked => {
                world.service.lock().unwrap().revoke_tokens();
                Vec::new()
            }
            Kind::CredentialsRefused => {
                let mut service = world.service.lock().unwrap();
                let variant = chance.below(3);
                if variant < 2 {
                    service.revoke_tokens();
                }
                if variant > 0 {
                    service.role.secret_id = format!("secret-{}", self.seed);
                }
                if variant == 0 { vec![Effect::RoleLocked] } else { Vec::new() }
            }
            Kind::KeyDeleted => {
                vec![if chance.percent(50) { Effect::KeyDeleted } else { Effect::SoftDeleted }]
            }
            Kind::KeyReplaced => {
                let mut service = world.service.lock().unwrap();
                let mut key = Key::new(service.make_version());
                // An administrator may rotate it until the version in use exists again.
                for _ in 1..if chance.percent(60) { service.key.latest() } else { 1 } {
                    key.rotate(service.make_version());
                }
                drop(service);
                started.keeps_key = chance.percent(40);
                world.oracle.key_replaced();
                vec![Effect::Replaced(key)]
            }
            Kind::RolledBack => {
                let mut key = world.service.lock().unwrap().key.clone();
                if key.versions.len() > 1 {
                    key.versions.pop_last();
                }
                world.oracle.key_replaced();
                vec![Effect::RolledBack(key)]
            }
            Kind::Rotated => {
                let mut service = world.service.lock().unwrap();
                if service.rotate() {
                    world.oracle.key_replaced();
                }
                let latest = service.key.latest();
                match chance.below(4) {
                    0 => vec![Effect::MinVersions(latest, 1)],
                    1 => vec![Effect::MinVersions(latest, latest)],
                    _ => Vec::new(),
                }
            }
            Kind::Crashed => {
                let reboot = chance.percent(35);
                let node = &mut nodes[node];
                started.node = Some(node.number);
                if reboot {
                    node.power_off().await
                } else {
                    node.kill_agent().await
                }
                Vec::new()
            }
            Kind::Reloaded => {
                nodes[node].reload();
                Vec::new()
            }
            Kind::Suspended => {
                let asleep = chance.time(2_000..=400_000);
                let mut service = world.service.lock().unwrap();
                if service.pause > now() {
                    // The agents' clocks stand still meanwhile: they wait out what was left.
                    service.pause += asleep;
                }
                drop(service);
                simulated::suspend(asleep);
                Vec::new()
            }
            Kind::ApiServerRestarted => {
                nodes[node].start_api_server().await;
                Vec::new()
            }
        };
        let mut service = world.service.lock().unwrap();
        started.effects = effects.into_iter().map(|effect| service.start(effect)).collect();
        started
    }

    /// Ends the fault, with what an administrator does for it.
    pub(super) async fn end(&self, started: Started, world: &Arc<World>, nodes: &mut [Node]) {
        {
            let mut service = world.service.lock().unwrap();
            if self.kind == Kind::KeyDeleted {
                service.restore_created();
            }
            let now = service.effects.iter().find(|(number, _)| started.effects.contains(number)).cloned();
            started.effects.iter().for_each(|effect| service.end(*effect));
            if matches!(self.kind, Kind::KeyReplaced | Kind::RolledBack | Kind::KeyDeleted) {
                world.oracle.key_replaced();
            }
            let other = |effect: &Effect| matches!(effect, Effect::Replaced(_) | Effect::RolledBack(_));
            if let Some((_, Effect::Replaced(key))) = &now
                && started.keeps_key
                && !service.effects.iter().any(|(_, effect)| other(effect))
            {
                // The old key is lost, and so is what it wrapped. The administrators accept the new one.
                service.key = key.clone();
                service.record();
            }
            if let Some((_, Effect::Replaced(key) | Effect::RolledBack(key))) = &now
                && key.versions.keys().any(|version| !service.key.versions.contains_key(version))
            {
                // For an agent that has seen such a version, this is a rollback.
                world.oracle.versions_lost();
            }
            if self.kind == Kind::CredentialsRefused {
                service.role.failures.clear();
                service.role.secret_id = format!("secret-{}", self.seed + 1);
            }
        }
        if self.kind == Kind::CredentialsRefused {
            let secret_id = world.service.lock().unwrap().role.secret_id.clone();
            nodes.iter_mut().for_each(|node| node.write_secret_id(&secret_id));
        }
        if let Some(node) = started.node {
            nodes[node].start_agent();
            nodes[node].ensure_api_server().await;
        }
    }
}
