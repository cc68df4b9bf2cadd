//! `check`: looks at everything that must be right on this node, in order, and suggests a fix for each problem.

pub mod admin;
pub mod agent;
pub mod certificate;
pub mod configuration;
pub mod credentials;
pub mod encryption_config;
pub mod finding;
pub mod identity;
pub mod key;
pub mod key_services;
pub mod login;
pub mod network;
pub mod offline;
pub mod peer;
pub mod policy;
pub mod refusals;
pub mod report;
pub mod service_user;
pub mod socket;
pub mod unit;
pub mod web;
