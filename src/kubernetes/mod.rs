//! Kubernetes objects that the project reads and writes.

pub(crate) mod encryption_configuration;
