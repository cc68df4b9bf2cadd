//! A model of the key service: three replicas of one Vault or OpenBao cluster, and the network to them.
//!
//! It answers with the words of the real servers. What is wrong with it at a moment is a list of effects; without
//! effects it is well. Must not know what an agent is.

mod answer;
pub(super) mod effect;
pub(super) mod key;
pub(super) mod link;
pub(super) mod service;
pub(super) mod tokens;
mod words;
