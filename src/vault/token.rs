//! The lifetime of a token, as pure functions of time: when to renew, when to log in again.
//!
//! Must not know HTTP, files or clocks: times are arguments. The rules are those of Vault's token documentation: a
//! TTL of 0 means no expiry; near the maximum TTL, a renewal grants less than requested.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use crate::secret::Secret;
use crate::untrusted;

/// Longest token, in bytes. Those of Vault and OpenBao have some hundred at most, batch tokens some more.
const MAX_TOKEN: usize = 16 * 1024;
/// Longest lease, in seconds: ten years. A longer one is shortened to this.
const MAX_LEASE: u64 = 10 * 365 * 86_400;

/// Whether a token can be sent in a header: visible ASCII characters, and at least one.
pub(super) fn is_well_formed(token: &str) -> bool {
    (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A lease in seconds; zero means no expiry.
pub(super) fn lease(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.min(MAX_LEASE)))
}

/// A token's lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    /// The start of the lease: the time before the request that granted it.
    pub granted: Instant,
    /// `None` when it does not end.
    pub ttl: Option<Duration>,
    /// The longest lease that this token had: a shorter one shows that its maximum TTL is near.
    pub longest: Duration,
    pub renewable: bool,
}

/// What the session does next with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: it does not end.
    Keep,
    /// Renew at this time.
    Renew(Instant),
    /// Log in again at this time, while the token is still valid.
    Login(Instant),
}

impl Lease {
    /// A lease of a fresh login.
    pub(super) fn new(granted: Instant, ttl: Option<Duration>, renewable: bool) -> Self {
        Self { granted, ttl, longest: ttl.unwrap_or_default(), renewable }
    }

    /// The lease after a renewal.
    pub(super) fn renewed(&self, granted: Instant, ttl: Option<Duration>, renewable: bool) -> Self {
        Self { granted, ttl, longest: self.longest.max(ttl.unwrap_or_default()), renewable }
    }

    /// The same lease after the server refused to renew it at `now`. The time that is left counts from there.
    pub(super) fn unrenewable(&self, now: Instant) -> Self {
        let left = self.end().map(|end| end.saturating_duration_since(now));
        Self { granted: now, ttl: left, longest: self.longest, renewable: false }
    }

    /// When it ends.
    pub(super) fn end(&self) -> Option<Instant> {
        self.ttl.map(|ttl| self.granted + ttl)
    }

    /// Whether renewals grant less than before: the maximum TTL is near.
    fn shrinks(&self) -> bool {
        self.ttl.is_some_and(|ttl| ttl < self.longest.mul_f64(0.75))
    }

    /// The next action. `jitter` in `0.0..1.0` spreads the nodes over a thirtieth of the lease.
    pub(super) fn next(&self, jitter: f64) -> Next {
        let Some(ttl) = self.ttl else { return Next::Keep };
        let at = self.granted + ttl.mul_f64(2.0 / 3.0 + jitter / 30.0);
        if self.renewable && !self.shrinks() {
            Next::Renew(at)
        } else if self.shrinks() {
            // Every later renewal grants even less: replace the token now.
            Next::Login(self.granted)
        } else {
            Next::Login(at)
        }
    }

    /// Whether less than a tenth of the longest lease is left: then a login replaces the renewal.
    pub(super) fn nearly_over(&self, now: Instant) -> bool {
        self.end().is_some_and(|end| end.saturating_duration_since(now) < self.longest.div_f64(10.0))
    }
}

/// The fields of `auth/token/lookup-self` that are used.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Lookup {
    /// Seconds until it expires; 0 means never.
    pub ttl: u64,
    #[serde(default)]
    pub renewable: bool,
    /// How many uses it has; 0 means no limit.
    #[serde(default)]
    pub num_uses: u64,
    #[serde(default, deserialize_with = "untrusted::deserialize_list")]
    pub policies: Vec<String>,
    /// Longest lifetime in seconds, which no renewal extends; 0 means no such limit.
    #[serde(default)]
    pub explicit_max_ttl: u64,
    /// Seconds that each renewal of a periodic token grants, without a maximum; 0 for other tokens.
    #[serde(default)]
    pub period: u64,
    /// In seconds since 1970.
    #[serde(default)]
    pub creation_time: i64,
}

/// A token in use.
#[derive(Debug)]
pub(super) struct Token {
    /// `None` with the method `none`: a proxy adds its own token to each request.
    pub secret: Option<Secret>,
    /// The number of the login that created it. It shows which token was refused.
    pub generation: u64,
    /// When the agent got it.
    pub born: Instant,
    pub lease: Lease,
    /// How many uses the server allows; 0 means no limit.
    pub num_uses: u64,
}

impl Token {
    /// The place of the token that a proxy adds. The proxy renews that one.
    pub(super) fn of_the_proxy(born: Instant) -> Self {
        Self { secret: None, generation: 0, born, lease: Lease::new(born, None, false), num_uses: 0 }
    }

    /// The same token with another lease.
    pub(super) fn with_lease(&self, lease: Lease) -> Self {
        Self {
            secret: self.secret.clone(),
            generation: self.generation,
            born: self.born,
            lease,
            num_uses: self.num_uses,
        }
    }

    /// The use at which it is replaced: one fifth of the uses is left then.
    pub(super) fn uses_before_login(&self) -> u64 {
        (self.num_uses / 5 * 4).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_renewable_token_is_renewed_at_two_thirds() {
        let now = Instant::now();
        let lease = Lease::new(now, Some(HOUR), true);
        assert_eq!(lease.next(0.0), Next::Renew(now + HOUR.mul_f64(2.0 / 3.0)));
        let Next::Renew(latest) = lease.next(0.999) else { panic!("renewable") };
        assert!(latest > now + HOUR * 2 / 3 && latest < now + HOUR * 3 / 4, "{latest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn near_its_maximum_lifetime_a_token_is_replaced_at_once() {
        let now = Instant::now();
        let lease = Lease::new(now, Some(HOUR), true);
        let whole = lease.renewed(now + HOUR / 2, Some(HOUR), true);
        assert!(matches!(whole.next(0.0), Next::Renew(_)));
        let short = whole.renewed(now + HOUR, Some(HOUR / 2), true);
        assert_eq!(short.next(0.5), Next::Login(now + HOUR));
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_without_renewal_are_replaced_before_their_end() {
        let now = Instant::now();
        let batch = Lease::new(now, Some(HOUR), false);
        assert_eq!(batch.next(0.0), Next::Login(now + HOUR.mul_f64(2.0 / 3.0)));
        let forbidden = Lease::new(now, Some(HOUR), true).unrenewable(now + HOUR * 2 / 3);
        assert_eq!(forbidden.end(), Some(now + HOUR));
        assert!(matches!(forbidden.next(0.0), Next::Login(at) if at <= now + HOUR * 2 / 3));
        assert!(!forbidden.nearly_over(now + HOUR * 8 / 10));
        assert!(forbidden.nearly_over(now + HOUR * 95 / 100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_without_expiry_is_kept() {
        let lease = Lease::new(Instant::now(), None, false);
        assert_eq!(lease.next(0.3), Next::Keep);
        assert_eq!(lease.end(), None);
        assert!(!lease.nearly_over(Instant::now() + HOUR * 1000));
    }
}
