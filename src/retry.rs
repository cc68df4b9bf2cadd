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
            .without_max_times()
            .with_jitter();
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

/// A random number in `0.0..1.0`, for jitter. Not for cryptography.
pub(crate) fn jitter() -> f64 {
    // Derived from a delay of `backon`, so that only one crate makes random times.
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

/// `interval`, up to 10 % shorter or longer, so that the nodes do not send their requests at the same time.
pub(crate) fn spread(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + jitter() * 0.2)
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
        assert!((0..100).all(|_| (54..=66).contains(&spread(interval).as_secs())));
    }
}
