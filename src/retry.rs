//! Delays between retries: exponential backoff with jitter and a limit. The only user of `backon`.
//!
//! Must not know what is retried. The delays never end: a caller that must stop has its own deadline.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// The delays between attempts: they grow exponentially from `first` to `longest`, each with jitter.
#[derive(Debug)]
pub(crate) struct Backoff {
    builder: ExponentialBuilder,
    delays: ExponentialBackoff,
    longest: Duration,
}

impl Backoff {
    /// Delays that start at `first`, double each time, and stay at `longest`. Both are at least one millisecond, so
    /// that no configuration makes a loop without delay.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        let first = first.max(Duration::from_millis(1));
        let longest = longest.max(first);
        let builder = ExponentialBuilder::default()
            .with_min_delay(first)
            .with_max_delay(longest)
            .with_factor(2.0)
            .without_max_times();
        let builder = with_jitter(builder);
        Self { builder, delays: builder.build(), longest }
    }

    /// The delay before the next attempt. With jitter, it is at most twice the longest delay.
    pub(crate) fn next_delay(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.longest)
    }

    /// Starts again with the first delay, after a success.
    pub(crate) fn reset(&mut self) {
        self.delays = self.builder.build();
    }
}

/// Adds jitter. In a simulation, it is a function of the seed and the time.
fn with_jitter(builder: ExponentialBuilder) -> ExponentialBuilder {
    #[cfg(test)]
    if let Some(seed) = simulated::seed() {
        return builder.with_jitter().with_jitter_seed(seed);
    }
    builder.with_jitter()
}

/// A random number in `0.0..1.0`, for jitter. Not for cryptography.
pub(crate) fn jitter() -> f64 {
    // Derived from a delay of `backon`, so that only one crate makes random times.
    let unit = Duration::from_secs(1);
    let delay = with_jitter(ExponentialBuilder::default().with_min_delay(unit).with_max_delay(unit))
        .build()
        .next()
        .unwrap_or(unit);
    delay.saturating_sub(unit).as_secs_f64().clamp(0.0, 0.999_999)
}

/// `first`, doubled for each earlier attempt, `longest` at most. Without jitter: for pure code, which adds its own.
pub(crate) fn doubled((first, longest): (Duration, Duration), earlier: u32) -> Duration {
    first.saturating_mul(1 << earlier.min(16)).min(longest)
}

/// `interval`, up to 10 % shorter or longer, so that the nodes do not send their requests at the same time. `chance` is a
/// number in `0.0..1.0`, from [`jitter`].
pub(crate) fn spread(interval: Duration, chance: f64) -> Duration {
    interval.mul_f64(0.9 + chance * 0.2)
}

/// `interval`, or up to 10 % shorter: the same for what is promised within `interval`.
pub(crate) fn spread_early(interval: Duration, chance: f64) -> Duration {
    interval.mul_f64(0.9 + chance * 0.1)
}

/// The jitter of a simulation (`tests/simulation`).
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::Cell;

    use crate::clock;

    thread_local! {
        static SEED: Cell<Option<u64>> = const { Cell::new(None) };
        static DRAWN: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Makes the jitter of this thread follow from `seed`.
    pub(crate) fn start(seed: u64) {
        SEED.set(Some(seed));
        DRAWN.set(None);
    }

    /// The same for many agents. Two that draw at the same moment get different numbers. Which one gets which may differ
    /// from run to run.
    pub(crate) fn start_apart(seed: u64) {
        SEED.set(Some(seed));
        DRAWN.set(Some(0));
    }

    /// A seed from the simulation's seed and the time. It does not depend on the order of two tasks that run at the
    /// same time: tokio does not define this order.
    pub(super) fn seed() -> Option<u64> {
        let elapsed = u64::try_from(clock::simulated::elapsed()?.as_nanos()).unwrap_or_default();
        let drawn = DRAWN.get().inspect(|drawn| DRAWN.set(Some(drawn + 1)));
        Some(mix(SEED.get()? ^ mix(elapsed ^ drawn.map_or(0, mix))))
    }

    /// SplitMix64's mixing function.
    pub(crate) fn mix(number: u64) -> u64 {
        let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_limit_never_end_and_can_be_reset() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut backoff = Backoff::new(first, longest);
        let initial = backoff.next_delay();
        assert!(initial >= first && initial <= first * 2, "{initial:?}");
        for _ in 0..1000 {
            let delay = backoff.next_delay();
            assert!(delay >= first && delay <= longest * 2, "{delay:?}");
        }
        assert!(backoff.next_delay() >= longest);
        backoff.reset();
        assert!(backoff.next_delay() <= first * 2);
    }

    #[test]
    fn a_delay_is_never_zero() {
        let mut backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
        assert!((0..100).all(|_| backoff.next_delay() >= Duration::from_millis(1)));
    }

    #[test]
    fn jitter_varies_within_its_bounds() {
        let values: Vec<f64> = (0..200).map(|_| jitter()).collect();
        assert!(values.iter().all(|value| (0.0..1.0).contains(value)));
        assert!(values.iter().any(|value| *value < 0.3) && values.iter().any(|value| *value > 0.7));
        let interval = Duration::from_secs(60);
        assert!((0..100).all(|_| (54..=66).contains(&spread(interval, jitter()).as_secs())));
        assert!((0..100).all(|_| (54..60).contains(&spread_early(interval, jitter()).as_secs())));
    }
}
