//! The only place that speaks to systemd. Must not know Vault, KMS or health.

pub mod activation;
pub mod credentials;
pub mod notify;
pub mod store;
