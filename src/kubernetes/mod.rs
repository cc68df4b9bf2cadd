//! Kubernetes' own formats and rules: EncryptionConfiguration, durations, the endpoints of KMS plugins.
//!
//! Must not know what a command does with them.

mod document;
pub(crate) mod duration;
pub(crate) mod encryption_configuration;
mod encryption_configuration_rules;
mod encryption_configuration_shape;
pub(crate) mod encryption_configuration_template;
pub(crate) mod endpoint;
mod scalar;

#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/kubernetes.rs"]
pub(crate) mod fuzz;
