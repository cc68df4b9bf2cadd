//! `check`: looks at everything that must be right on this node, in order, and suggests a fix for each problem.

pub(crate) mod admin;
pub(crate) mod agent;
pub(crate) mod certificate;
pub(crate) mod configuration;
pub(crate) mod credentials;
pub(crate) mod encryption_config;
pub(crate) mod finding;
pub(crate) mod identity;
pub(crate) mod key;
pub(crate) mod key_services;
pub(crate) mod login;
pub(crate) mod network;
pub(crate) mod offline;
pub(crate) mod peer;
pub(crate) mod policy;
pub(crate) mod refusals;
pub(crate) mod report;
pub(crate) mod service_user;
pub(crate) mod socket;
pub(crate) mod unit;
pub(crate) mod web;
