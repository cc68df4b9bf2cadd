//! What a seed decides: how the agents are configured, and which faults come when.

use std::time::Duration;

use super::chance::Chance;
use super::coverage::pairs;
use super::fault::{Fault, Kind};
use super::model::service::Flavour;
use super::node::Setup;

/// Before the first fault.
const WARM_UP: u64 = 14_000;
/// In which the faults start.
const WINDOW: u64 = 120_000;
/// Pairs of faults that each seed surely has, so that every pair comes often enough.
const PAIRS: u64 = 4;
/// An instant fault counts as active for this long.
const INSTANT: Duration = Duration::from_secs(15);
/// Around a fault that comes alone, nothing else is wrong: what would be there again after the next fault shows then.
const GAP: Duration = Duration::from_secs(45);

pub(super) struct Schedule {
    pub setup: Setup,
    pub flavour: Flavour,
    pub usual_lag: Duration,
    pub token_ttl: Duration,
    pub token_max_ttl: Duration,
    pub may_create: bool,
    /// In the order of their start.
    pub faults: Vec<Fault>,
    /// How long nothing is wrong after the last fault, before the administrators look after every node.
    pub gap: Duration,
}

impl Schedule {
    pub(super) fn of(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let ttl = chance.pick(&[60, 120, 600, 3600]);
        // Half of them end within one fault.
        let longest = chance.pick(&[90_000, 3_600_000]);
        let setup = Setup {
            nodes: usize::try_from(chance.pick(&[1, 1, 1, 2, 3, 3, 5])).unwrap(),
            max_offline: chance.percent(50).then(|| chance.time(60_000..=longest)),
            grace: chance.pick(&[Duration::ZERO, Duration::from_secs(60), Duration::from_secs(3600)]),
            sealed_is_denied: chance.percent(25),
            decrypt_only: chance.percent(30),
            asked: Chance::new(seed ^ 11).percent(30),
            ..Setup::default()
        };
        let mut faults = Vec::new();
        for number in 0..PAIRS {
            let all = pairs();
            let place = usize::try_from((seed * PAIRS + number) % all.len() as u64).unwrap();
            let first = fault(all[place].0, WARM_UP + chance.below(WINDOW), &mut chance);
            let overlap = u64::try_from((first.end - first.start).as_millis()).unwrap();
            let start = u64::try_from(first.start.as_millis()).unwrap() + chance.below(overlap);
            faults.extend([first, fault(all[place].1, start, &mut chance)]);
        }
        faults.sort_by_key(|fault| fault.start);
        let alone = chance.percent(40);
        if alone {
            let last = faults.iter().map(|fault| fault.end).max().unwrap_or_default();
            let start = u64::try_from((last + GAP).as_millis()).unwrap();
            faults.push(fault(chance.pick(&Kind::ALL), start, &mut chance));
        }
        Self {
            setup,
            flavour: chance.pick(&[Flavour::Vault, Flavour::OpenBao]),
            usual_lag: chance.time(20..=250),
            token_ttl: Duration::from_secs(ttl),
            token_max_ttl: Duration::from_secs(ttl * chance.pick(&[2, 24])),
            may_create: chance.percent(20),
            faults,
            gap: if alone { GAP } else { Duration::ZERO },
        }
    }
}

fn fault(kind: Kind, start: u64, chance: &mut Chance) -> Fault {
    let start = Duration::from_millis(start);
    let length = match kind {
        Kind::Reloaded | Kind::Suspended | Kind::ApiServerRestarted | Kind::TokensRevoked => INSTANT,
        Kind::Election | Kind::Crashed => chance.time(300..=20_000),
        _ if chance.percent(20) => chance.time(92_000..=130_000),
        _ => chance.time(1_000..=45_000),
    };
    Fault { kind, start, end: start + length, seed: chance.next() }
}
