//! How far the servers of a cluster must have replicated before they answer: the header `X-Vault-Index`.
//!
//! A standby that is behind the index of a request sends the request on to the active server, since the agent also sends
//! `X-Vault-Inconsistent: forward-active-node`. OpenBao from 2.7 names its index in each answer; Vault Enterprise in the
//! answer to a write, such as a login; OpenBao 2.5 and 2.6 and Vault Community have none, and ignore the headers.
//!
//! Must not send anything, and must not know addresses.

use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::classification::Call;
use crate::clock::Purpose;

/// Longest index that is kept, in bytes.
const MAX_INDEX: usize = 4096;

/// How new the state must be that an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// The state that the server has.
    Any,
    /// No older than what the agent has seen of this cluster.
    Known,
    /// That of the active server.
    Active,
}

impl Freshness {
    /// What a call needs. The API server's calls may be served by a standby that has seen what the agent has seen. What
    /// the agent believes of the key and of its token must be the active server's: a member that was removed from its
    /// cluster goes on to answer as a standby, with the state that it had then.
    pub(super) fn of(call: Call, purpose: Purpose) -> Self {
        match (call, purpose) {
            (Call::Encrypt | Call::Decrypt, Purpose::ApiServer | Purpose::Prefetch) => Self::Known,
            (Call::Encrypt | Call::Decrypt | Call::ReadKey | Call::Lookup, _) => Self::Active,
            (Call::Renew | Call::Revoke | Call::Capabilities | Call::Mounts, _) => Self::Known,
            // These have no token, or their token is none of a login.
            (Call::Health | Call::Login | Call::WrappingLookup | Call::Unwrap, _) => Self::Any,
        }
    }
}

/// An index of OpenBao. That of Vault Enterprise has another form, which only its servers can read.
#[derive(Deserialize, Serialize)]
struct Parts {
    cluster: String,
    /// A number, where the storage is raft.
    value: String,
}

impl Parts {
    fn of(index: &str) -> Option<Self> {
        serde_json::from_slice(&STANDARD.decode(index).ok()?).ok()
    }

    fn number(&self) -> Option<u64> {
        self.value.parse().ok()
    }

    /// An index that no server has reached: each standby sends the request on.
    fn beyond_all(self) -> Option<String> {
        self.number()?;
        let parts = Self { value: u64::MAX.to_string(), ..self };
        serde_json::to_vec(&parts).ok().map(|json| STANDARD.encode(json))
    }
}

/// The newest index that a cluster has told.
#[derive(Default)]
pub(super) struct Replication(Mutex<State>);

#[derive(Default)]
struct State {
    index: Option<String>,
    /// Whether a server refused an index that no server has reached.
    refused: bool,
}

impl Replication {
    /// Keeps the index of an answer, if it is newer.
    pub(super) fn record(&self, index: &str, call: Call) {
        if index.len() > MAX_INDEX {
            return;
        }
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.index.as_deref() == Some(index) {
            return;
        }
        let newer = match (Parts::of(index), state.index.as_deref().and_then(Parts::of)) {
            (Some(new), Some(old)) => new.cluster != old.cluster || new.number() > old.number(),
            (Some(_), None) => true,
            // Nobody else can compare two of them: that of the login shows whether a server knows the token.
            (None, _) => call == Call::Login,
        };
        if newer {
            state.index = Some(index.to_owned());
        }
    }

    /// The index to send with a request, if one is known.
    pub(super) fn index(&self, freshness: Freshness) -> Option<String> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = state.index.clone()?;
        match (freshness, Parts::of(&index)) {
            (Freshness::Any, Some(_)) => None,
            (Freshness::Active, Some(parts)) if !state.refused => parts.beyond_all().or(Some(index)),
            _ => Some(index),
        }
    }

    /// A server refused an index that no server has reached: only indexes that servers have told are sent from now on.
    /// Returns whether that is news.
    pub(super) fn refuse_beyond_all(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = state.index.as_deref().and_then(Parts::of).and_then(|parts| parts.number());
        sent.is_some() && !std::mem::replace(&mut state.refused, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(cluster: &str, value: &str) -> String {
        STANDARD.encode(format!(r#"{{"cluster":"{cluster}","value":"{value}"}}"#))
    }

    fn value(replication: &Replication, freshness: Freshness) -> Option<String> {
        replication.index(freshness).map(|index| Parts::of(&index).map_or(index, |parts| parts.value))
    }

    #[test]
    fn the_newest_index_of_a_cluster_is_kept() {
        let replication = Replication::default();
        assert_eq!(replication.index(Freshness::Active), None);
        for told in ["48", "9", "120", "119"] {
            replication.record(&index("a", told), Call::ReadKey);
        }
        assert_eq!(value(&replication, Freshness::Known).as_deref(), Some("120"), "as numbers");
        assert_eq!(value(&replication, Freshness::Any), None);
        assert_eq!(value(&replication, Freshness::Active), Some(u64::MAX.to_string()));
        replication.record(&index("b", "3"), Call::ReadKey);
        assert_eq!(value(&replication, Freshness::Known).as_deref(), Some("3"), "another cluster");
        replication.record(&"x".repeat(MAX_INDEX + 1), Call::Login);
        assert_eq!(value(&replication, Freshness::Known).as_deref(), Some("3"));
        assert!(replication.refuse_beyond_all() && !replication.refuse_beyond_all());
        assert_eq!(value(&replication, Freshness::Active).as_deref(), Some("3"));
    }

    /// Vault Enterprise's: bytes that only its servers read, here as its documentation shows one.
    #[test]
    fn an_index_in_another_form_is_that_of_the_login() {
        let replication = Replication::default();
        let (login, other) = (STANDARD.encode("v1:one:2:3"), STANDARD.encode("v1:two:4:5"));
        replication.record(&other, Call::Encrypt);
        assert_eq!(replication.index(Freshness::Known), None);
        replication.record(&login, Call::Login);
        replication.record(&other, Call::Encrypt);
        for freshness in [Freshness::Any, Freshness::Known, Freshness::Active] {
            assert_eq!(replication.index(freshness).as_deref(), Some(&*login));
        }
        assert!(!replication.refuse_beyond_all(), "none was sent");
        // Storage other than raft: an index that is no number.
        replication.record(&index("a", "0/16B3748"), Call::Login);
        assert_eq!(value(&replication, Freshness::Active).as_deref(), Some("0/16B3748"));
    }
}
