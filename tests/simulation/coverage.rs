//! How often each kind of fault, and each pair of kinds at the same time, was seen.

use std::collections::BTreeMap;

use super::fault::{Fault, Kind};

/// How often each must be seen.
const ENOUGH: u64 = 20;

/// Every pair of different kinds.
pub(super) fn pairs() -> Vec<(Kind, Kind)> {
    let all = Kind::ALL;
    let with = |(place, first): (usize, &Kind)| {
        all[place + 1..].iter().map(|second| (*first, *second)).collect::<Vec<_>>()
    };
    all.iter().enumerate().flat_map(with).collect()
}

#[derive(Default)]
pub(super) struct Coverage {
    kinds: BTreeMap<Kind, u64>,
    pairs: BTreeMap<(Kind, Kind), u64>,
}

impl Coverage {
    pub(super) fn add(&mut self, faults: &[Fault]) {
        for (place, first) in faults.iter().enumerate() {
            *self.kinds.entry(first.kind).or_default() += 1;
            let together = |second: &&Fault| second.start <= first.end && first.start <= second.end;
            for second in faults[place + 1..].iter().filter(together) {
                let pair = (first.kind.min(second.kind), first.kind.max(second.kind));
                *self.pairs.entry(pair).or_default() += 1;
            }
        }
    }

    /// The kinds and the pairs that were seen too seldom.
    pub(super) fn gaps(&self) -> Vec<String> {
        let kinds = Kind::ALL.iter().map(|kind| (format!("{kind:?}"), self.kinds.get(kind)));
        let pairs = pairs().into_iter().map(|pair| (format!("{pair:?}"), self.pairs.get(&pair)));
        let seen = kinds.chain(pairs).map(|(name, seen)| (name, seen.copied().unwrap_or_default()));
        seen.filter(|(_, seen)| *seen < ENOUGH).map(|(name, seen)| format!("{name}: {seen}")).collect()
    }

    /// The least that a kind and a pair were seen.
    pub(super) fn least(&self) -> (u64, u64) {
        let kind = Kind::ALL.iter().map(|kind| self.kinds.get(kind).copied().unwrap_or_default()).min();
        let pair = pairs().into_iter().map(|pair| self.pairs.get(&pair).copied().unwrap_or_default()).min();
        (kind.unwrap_or_default(), pair.unwrap_or_default())
    }
}
