//! Integration tests on real servers: a real OpenBao, the real binary, a real etcd, the API server's own Go client.
//!
//! Each test has its own server on a free loopback port, with a policy of least privilege.

#![allow(clippy::restriction)] // a test that fails panics
#![allow(unreachable_pub)] // nobody uses a test program as a library
#![allow(missing_docs)] // a test's name says what it shows

#[allow(dead_code)] // clusters and the recorder of answers share it, and use other parts
mod support;

mod auth;
mod bad_input;
mod budget;
mod bundle;
mod causes;
mod check;
mod check_network;
mod check_node;
mod check_use;
mod command;
mod compat;
mod compatibility;
mod config;
mod decrypt_only;
mod dev;
mod failover;
mod faults;
#[cfg(feature = "fips")]
mod fips;
mod forward_proxy;
mod gateway;
mod go_client;
mod hostile_peers;
mod identity;
mod kms;
mod local_kek;
mod local_proxy;
mod manual;
mod memory;
mod metrics;
mod namespaces;
mod neighbours;
mod nodes;
mod offline;
mod only_vault;
mod outage;
mod output;
mod readiness;
mod reload;
mod render;
mod soak;
mod spiffe;
mod spire;
mod systemd;
mod tls;
mod unconfigured;
mod verify_etcd;
mod wiped;
