//! A fleet: many nodes of many clusters on one key service, and how many requests a second it gets from all of them.
//!
//! The agents are the real ones, as in the rest of the simulation. Audited requests are counted apart from the others,
//! which are `sys/health`: they need no login, and cost the key service little.
//!
//! - `cargo test --lib simulation::fleet` runs a small fleet, and a short outage.
//! - `KMS_FLEET_NODES=1000 KMS_FLEET_AWAY=3600 cargo test --profile simulation --lib simulation::fleet -- --nocapture` is the
//!   one of docs/performance.md. `KMS_FLEET_PICTURE=docs/fleet.svg` draws its curves.

mod clusters;
mod curve;
mod events;
mod picture;

use std::time::Duration;

use self::curve::Curve;
use self::events::Event;
use super::number;
use super::run::in_simulated_time;
use crate::retry::simulated::start_apart;

/// A fleet without the variables of the environment: enough to see what is not spread.
const NODES: u64 = 40;
const AWAY: u64 = 100;
/// So many nodes are spread evenly.
const LARGE: usize = 1000;

/// How large a fleet is, and how long its key service is away.
#[derive(Clone, Copy, Debug)]
struct Size {
    nodes: usize,
    /// Tokens last for half of it, so that all have ended.
    away: Duration,
}

impl Size {
    fn of_the_environment() -> Self {
        let nodes = number("KMS_FLEET_NODES").unwrap_or(NODES);
        let away = Duration::from_secs(number("KMS_FLEET_AWAY").unwrap_or(AWAY));
        Self { nodes: usize::try_from(nodes).unwrap(), away }
    }

    /// The most audited requests in a second: one for each node. In a small fleet, chance leads several nodes to the same
    /// second.
    fn limit(self) -> usize {
        self.nodes + if self.nodes < LARGE { 5 * self.nodes.isqrt() } else { 0 }
    }
}

/// In no second, a key service gets more audited requests than there are nodes.
#[test]
fn a_fleet_sends_at_most_one_audited_request_a_second_and_node() {
    let size = Size::of_the_environment();
    let only = std::env::var("KMS_FLEET_EVENT").ok();
    let wanted = |event: &Event| only.as_deref().is_none_or(|only| event.name() == only);
    let events: Vec<Event> = Event::ALL.into_iter().filter(wanted).collect();
    let mut curves: Vec<Option<Curve>> = events.iter().map(|_| None).collect();
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    for some in events.iter().zip(&mut curves).collect::<Vec<_>>().chunks_mut(cores) {
        std::thread::scope(|scope| {
            for (event, curve) in some {
                // A thread of its own: the simulated clocks belong to a thread.
                scope.spawn(|| {
                    let began = std::time::Instant::now();
                    let seen = in_simulated_time(1, async {
                        start_apart(1);
                        events::run(**event, size).await
                    });
                    println!("MEASURED {size:?}: {seen}, in {:.1?}", began.elapsed());
                    **curve = Some(seen);
                });
            }
        });
    }
    let curves: Vec<Curve> = curves.into_iter().flatten().collect();
    if let Ok(file) = std::env::var("KMS_FLEET_PICTURE") {
        std::fs::write(file, picture::of(&curves, size.nodes)).unwrap();
    }
    let beyond: Vec<String> = curves
        .iter()
        .filter(|curve| curve.peak().audited > size.limit())
        .map(|curve| format!("{curve}\n{}", curve.around_the_peak()))
        .collect();
    assert!(
        beyond.is_empty(),
        "more than {} audited requests in a second:\n{}",
        size.nodes,
        beyond.join("\n")
    );
}
