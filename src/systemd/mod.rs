//! The only place that talks to systemd. Must not know Vault, KMS or health.

pub(crate) mod activation;
pub(crate) mod credentials;
pub(crate) mod journal;
pub(crate) mod notify;
pub(crate) mod store;
pub(crate) mod unit;
pub(crate) mod units;
