//! The budget of background requests, as the oracle counts it: a bucket that empties at the allowed rate.

use std::time::Duration;

/// Requests a second, and at once, of each key service.
const RATE: f64 = 1.0;
const BURST: f64 = 20.0;
/// Logins, renewals and confirmations: ten a minute beside that.
const RESERVE_RATE: f64 = 10.0 / 60.0;
const RESERVE: f64 = 10.0;
/// `sys/health` is asked without a login and not audited: it has a bucket of its own, for each address.
const HEALTH_RATE: f64 = 1.0;
const HEALTH_BURST: f64 = 20.0;
/// Requests that one call of an API server may cause: it may try three addresses four times, read the key in the same
/// way, and log in between.
const PER_CALL: f64 = 28.0;

pub(super) struct Budget {
    services: f64,
    addresses: f64,
    level: f64,
    at: Duration,
    health: f64,
    health_at: Duration,
    calls: u64,
    /// Requests that calls of the API server may still cause: they are not counted.
    credit: f64,
}

impl Budget {
    pub(super) fn new(services: f64, addresses: f64) -> Self {
        let (level, at) = (0.0, Duration::ZERO);
        Self { services, addresses, level, at, health: level, health_at: at, calls: 0, credit: 0.0 }
    }

    pub(super) fn capacity(&self) -> f64 {
        BURST * self.services + RESERVE * self.addresses
    }

    /// The calls that the API server has begun so far.
    pub(super) fn calls(&mut self, calls: u64) {
        #[allow(clippy::cast_precision_loss)] // a few thousand
        let new = (calls - self.calls) as f64;
        self.credit = (self.credit + new * PER_CALL).min(20.0 * PER_CALL);
        self.calls = calls;
    }

    /// Counts a request for the health of an address. Returns whether it is beyond its budget.
    pub(super) fn asked_for_health(&mut self, at: Duration) -> bool {
        let passed = at.saturating_sub(self.health_at).as_secs_f64();
        let services = self.services * self.addresses;
        self.health = (self.health - passed * HEALTH_RATE * services).max(0.0) + 1.0;
        self.health_at = at;
        self.health > HEALTH_BURST * services
    }

    /// Counts another request. Returns whether it is beyond the budget.
    pub(super) fn sent(&mut self, at: Duration) -> bool {
        if self.credit >= 1.0 {
            self.credit -= 1.0;
            return false;
        }
        let passed = at.saturating_sub(self.at).as_secs_f64();
        let rate = RATE * self.services + RESERVE_RATE * self.addresses;
        self.level = (self.level - passed * rate).max(0.0) + 1.0;
        self.at = at;
        self.level > self.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_the_rate_are_within_and_more_is_beyond() {
        let at = |second: f64| Duration::from_secs_f64(1000.0 + second);
        let mut burst = Budget::new(1.0, 1.0);
        assert!((0..30).all(|_| !burst.sent(at(0.0))) && burst.sent(at(0.0)));
        let mut steady = Budget::new(1.0, 1.0);
        assert!((0..1000_u32).all(|second| !steady.sent(at(f64::from(second)))));
        let mut fast = Budget::new(1.0, 1.0);
        assert!((0..1000_u32).any(|count| fast.sent(at(f64::from(count) / 1.5))));
    }

    #[test]
    fn calls_of_the_api_server_are_not_counted() {
        let mut budget = Budget::new(1.0, 1.0);
        budget.calls(2);
        // Beside the burst.
        assert!((0..86).all(|_| !budget.sent(Duration::from_secs(1000))));
        assert!(budget.sent(Duration::from_secs(1000)));
    }
}
