//! The budget of background requests, as the oracle counts it: a bucket that empties at the allowed rate.

use std::time::Duration;

use super::model::service::Sent;
use crate::clock::Purpose;

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
/// Calls whose requests may still be outstanding.
const CALLS: f64 = 20.0;

/// What may be sent at once, and how much of that is used.
struct Bucket {
    capacity: f64,
    rate: f64,
    /// Below zero: capacity of further budgets, of agents that were started since.
    level: f64,
    at: Duration,
}

impl Bucket {
    fn new(capacity: f64, rate: f64) -> Self {
        Self { capacity, rate, level: 0.0, at: Duration::ZERO }
    }

    /// Returns whether the request is beyond the capacity.
    fn sent(&mut self, at: Duration) -> bool {
        let passed = at.saturating_sub(self.at).as_secs_f64();
        self.level = (self.level - passed * self.rate).max(self.level.min(0.0)) + 1.0;
        self.at = at;
        self.level > self.capacity
    }

    fn renew(&mut self) {
        self.level = self.level.min(0.0) - self.capacity;
    }
}

pub(super) struct Budget {
    background: Bucket,
    health: Bucket,
    calls: u64,
    budgets: u64,
    /// Requests that calls of the API server may still cause: they are not counted.
    credit: f64,
}

impl Budget {
    pub(super) fn new(services: f64, addresses: f64) -> Self {
        let capacity = BURST * services + RESERVE * addresses;
        let rate = RATE * services + RESERVE_RATE * addresses;
        let servers = services * addresses;
        Self {
            background: Bucket::new(capacity, rate),
            health: Bucket::new(HEALTH_BURST * servers, HEALTH_RATE * servers),
            calls: 0,
            budgets: 0,
            credit: 0.0,
        }
    }

    /// The calls that the API server has begun so far, and how many budgets the agents of the node have had: an agent
    /// that starts or reloads has a new one.
    pub(super) fn update(&mut self, calls: u64, budgets: u64) {
        #[allow(clippy::cast_precision_loss)] // a few thousand
        let new = (calls - self.calls) as f64;
        self.credit = (self.credit + new * PER_CALL).min(CALLS * PER_CALL);
        self.calls = calls;
        if self.budgets != budgets {
            self.budgets = budgets;
            [&mut self.background, &mut self.health].into_iter().for_each(Bucket::renew);
        }
    }

    /// Counts a request. Returns whether it is beyond the budget. A request that is said to be for a call of the API
    /// server must be covered by such calls.
    pub(super) fn sent(&mut self, sent: &Sent) -> bool {
        match sent.operation {
            "health" => self.health.sent(sent.at),
            _ if sent.purpose == Purpose::ApiServer && self.credit >= 1.0 => {
                self.credit -= 1.0;
                false
            }
            _ if sent.purpose == Purpose::ApiServer => true,
            _ => self.background.sent(sent.at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(second: f64, purpose: Purpose) -> Sent {
        let at = Duration::from_secs_f64(1000.0 + second);
        Sent { at, node: 0, operation: "encrypt", purpose, wraps_kek: false, audited: true }
    }

    #[test]
    fn a_burst_and_the_rate_are_within_and_more_is_beyond() {
        let own = |second| sent(second, Purpose::Background);
        let mut burst = Budget::new(1.0, 1.0);
        assert!((0..30).all(|_| !burst.sent(&own(0.0))) && burst.sent(&own(0.0)));
        let mut steady = Budget::new(1.0, 1.0);
        assert!((0..1000_u32).all(|second| !steady.sent(&own(f64::from(second)))));
        let mut fast = Budget::new(1.0, 1.0);
        assert!((0..1000_u32).any(|count| fast.sent(&own(f64::from(count) / 1.5))));
        let mut restarted = Budget::new(1.0, 1.0);
        assert!((0..30).all(|_| !restarted.sent(&own(0.0))));
        restarted.update(0, 1);
        assert!((0..30).all(|_| !restarted.sent(&own(0.0))) && (0..31).any(|_| restarted.sent(&own(0.0))));
    }

    #[test]
    fn calls_of_the_api_server_are_not_counted_and_cover_only_so_much() {
        let mut budget = Budget::new(1.0, 1.0);
        budget.update(2, 0);
        let call = sent(0.0, Purpose::ApiServer);
        assert!((0..56).all(|_| !budget.sent(&call)));
        assert!(budget.sent(&call));
    }
}
