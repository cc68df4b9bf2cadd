//! Kubernetes objects that the project reads and writes.

pub mod encryption_configuration;
