//! What happens to a fleet.

use std::time::Duration;

use super::Size;
use super::clusters::Fleet;
use super::curve::Curve;
use crate::agent::simulation::model::effect::{Effect, Trouble};
use crate::agent::simulation::model::service::now;

/// In which all nodes of the fleet have started before the event.
const STARTS: Duration = Duration::from_secs(120);
/// After the last start: first looks, seeds and renewals are over.
const SETTLED: Duration = Duration::from_secs(180);
/// How long the fleet is counted before an event, and after it.
const BEFORE: Duration = Duration::from_secs(60);
const AFTER: Duration = Duration::from_secs(180);
/// How long a fleet is counted that is idle.
const IDLE: Duration = Duration::from_secs(240);
/// In which machines come up that get power at the same moment: no two take the same time to boot.
const BOOTS: Duration = Duration::from_secs(10);
/// The part of the fleet that boots together.
const BOOTING: f64 = 0.3;
/// How long their power is off.
const OFF: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Idle,
    Returned,
    Rotated,
    Revoked,
    Booted,
}

impl Event {
    pub(super) const ALL: [Self; 5] =
        [Self::Returned, Self::Idle, Self::Rotated, Self::Revoked, Self::Booted];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Returned => "returned",
            Self::Rotated => "rotated",
            Self::Revoked => "revoked",
            Self::Booted => "booted",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Idle => "nothing happens",
            Self::Returned => "Vault answers again after an outage",
            Self::Rotated => "the key is rotated",
            Self::Revoked => "all tokens are revoked",
            Self::Booted => "three tenths of the nodes boot together",
        }
    }
}

/// Runs a fleet through an event. The curve is that of the time around it.
pub(super) async fn run(event: Event, size: Size) -> Curve {
    let mut fleet = Fleet::new(size.nodes, size.away / 2, Curve::new(event.title()));
    fleet.boot(size.nodes, STARTS).await;
    fleet.pass(SETTLED).await;
    let path = |trouble| Effect::Path { node: None, replica: None, trouble };
    let mut after = AFTER;
    match event {
        Event::Idle => {
            fleet.curve.begin(now());
            after = IDLE;
        }
        Event::Returned => {
            let outage = fleet.service.lock().unwrap().start(path(Trouble::Reset));
            fleet.pass(size.away).await;
            fleet.service.lock().unwrap().end(outage);
            fleet.curve.begin(now());
        }
        Event::Rotated => {
            fleet.service.lock().unwrap().rotate();
            fleet.curve.begin(now());
        }
        Event::Revoked => {
            fleet.service.lock().unwrap().revoke_tokens();
            fleet.curve.begin(now());
        }
        Event::Booted => {
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let booting = (size.nodes as f64 * BOOTING) as usize;
            for node in fleet.nodes.iter_mut().take(booting) {
                node.power_off().await;
            }
            fleet.pass(OFF).await;
            fleet.curve.begin(now());
            fleet.boot(booting, BOOTS).await;
        }
    }
    fleet.pass(after).await;
    let mut curve = fleet.end().await;
    curve.cut(BEFORE, after);
    curve
}
