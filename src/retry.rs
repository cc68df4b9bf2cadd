//! Backoff: jittered, bounded, never without delay. The only user of `backon`.
//!
//! Must not know what is retried. Nothing here gives up: what must end has a deadline of its own.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// The delays between attempts: exponential from `first` to `longest`, each with jitter.
#[derive(Debug)]
pub(crate) struct Backoff {
    builder: ExponentialBuilder,
    delays: ExponentialBackoff,
    longest: Duration,
}

impl Backoff {
    /// Delays that start at `first`, double each time and stay at `longest`. Both are raised to one
    /// millisecond, so that no mistake in a configuration makes a loop without delay.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        let first = first.max(Duration::from_millis(1));
        let longest = longest.max(first);
        let builder = ExponentialBuilder::default()
            .with_min_delay(first)
            .with_max_delay(longest)
            .with_factor(2.0)
            .without_max_times()
            .with_jitter();
        Self { builder, delays: builder.build(), longest }
    }

    /// How long to wait before the next attempt. With jitter, at most twice the longest delay.
    pub(crate) fn next_delay(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.longest)
    }

    /// Begins anew after a success.
    pub(crate) fn reset(&mut self) {
        self.delays = self.builder.build();
    }
}

/// A number in `0.0..1.0`, for jitter. Not for cryptography.
pub(crate) fn jitter() -> f64 {
    // A fraction of `backon`'s own jittered delay, so that one crate owns the randomness of time.
    let unit = Duration::from_secs(1);
    let delay = ExponentialBuilder::default()
        .with_min_delay(unit)
        .with_max_delay(unit)
        .with_jitter()
        .build()
        .next()
        .unwrap_or(unit);
    delay.saturating_sub(unit).as_secs_f64().clamp(0.0, 0.999_999)
}

/// `interval` shortened or lengthened by up to a tenth, so that nodes do not move in lockstep.
pub(crate) fn spread(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + jitter() * 0.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_stay_bounded_never_end_and_begin_anew() {
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
    fn a_delay_of_zero_is_refused() {
        let mut backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
        assert!((0..100).all(|_| backoff.next_delay() >= Duration::from_millis(1)));
    }

    #[test]
    fn jitter_spreads_and_stays_in_its_bounds() {
        let values: Vec<f64> = (0..200).map(|_| jitter()).collect();
        assert!(values.iter().all(|value| (0.0..1.0).contains(value)));
        assert!(values.iter().any(|value| *value < 0.3) && values.iter().any(|value| *value > 0.7));
        let interval = Duration::from_secs(60);
        assert!((0..100).all(|_| (54..=66).contains(&spread(interval).as_secs())));
    }
}
