//! Random numbers that follow from a seed alone.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::retry::simulated::mix;

/// A sequence of random numbers. Each part of a simulation has its own, so that one more number in one part does not
/// change the others.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// A number in `0..limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True in `percent` of a hundred cases.
    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    /// A time in whole milliseconds.
    pub(super) fn time(&mut self, between: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(between.start() + self.below(between.end() - between.start() + 1))
    }
}
