//! What all parts of one simulation share: the key service, the storage, the event log, and the oracle.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::journal::Journal;
use super::log::Log;
use super::model::service::Service;
use super::oracle::Oracle;

/// A few: each is a call that the agent did not expect.
const FURTHER_SEEDS: u64 = 15;

pub(super) struct World {
    pub seed: u64,
    /// Several worlds may share it: each is a Kubernetes cluster.
    pub service: Arc<Mutex<Service>>,
    pub log: Log,
    pub journal: Journal,
    pub oracle: Oracle,
    pub storage: Mutex<Vec<Stored>>,
    /// Starts and reloads of all agents.
    pub starts: Mutex<usize>,
    /// In how many of a hundred polls an API server makes a seed although it has one: it was replaced, or a further one
    /// is on the same socket.
    pub further_seeds: u64,
    /// Counts what was stored.
    pub stored: watch::Sender<usize>,
    /// Since when no fault is active; `None` while one is.
    pub clean_since: Mutex<Option<Duration>>,
}

/// A DEK seed in etcd, which all API servers share, with its bytes for comparison.
#[derive(Clone)]
pub(super) struct Stored {
    pub number: usize,
    pub at: Duration,
    pub ciphertext: Vec<u8>,
    pub key_id: String,
    pub annotations: std::collections::HashMap<String, Vec<u8>>,
    pub seed: Vec<u8>,
    /// Which key wrapped it.
    pub material: u64,
}

impl World {
    pub(super) fn new(seed: u64, service: Arc<Mutex<Service>>, oracle: Oracle) -> Self {
        Self {
            seed,
            service,
            log: Log::default(),
            journal: Journal::default(),
            oracle,
            storage: Mutex::default(),
            starts: Mutex::default(),
            further_seeds: FURTHER_SEEDS,
            stored: watch::Sender::new(0),
            clean_since: Mutex::new(Some(Duration::ZERO)),
        }
    }

    pub(super) fn store(&self, mut stored: Stored) {
        let mut storage = self.storage.lock().unwrap();
        stored.number = *self.stored.borrow();
        storage.push(stored);
        drop(storage);
        self.stored.send_modify(|count| *count += 1);
    }

    /// How many wrapped keys an agent may list: one for each start of an agent and each version of the key, and what
    /// is stored.
    pub(super) fn most_wrapped_keys(&self) -> usize {
        let made = self.service.lock().unwrap().versions_made();
        self.storage.lock().unwrap().len() + (made + 4) * *self.starts.lock().unwrap()
    }

    /// A seed, for a person.
    pub(super) fn shown(&self, number: usize) -> String {
        let storage = self.storage.lock().unwrap();
        let Stored { at, material, key_id, .. } = &storage[number];
        let at = at.as_secs_f64() - 1000.0;
        format!("seed {number}, stored at {at:.1} s, wrapped by version {material} under {key_id}")
    }

    /// How long no fault has been active.
    pub(super) fn clean_for(&self) -> Duration {
        let now = super::model::service::now();
        self.clean_since.lock().unwrap().map(|since| now.saturating_sub(since)).unwrap_or_default()
    }
}
