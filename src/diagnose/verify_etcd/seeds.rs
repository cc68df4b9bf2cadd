//! Lets the agent unwrap every DEK seed in etcd, as an API server does: can this key service read this etcd?
//!
//! Shows no seed: each is erased as soon as the agent has answered.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use zeroize::Zeroize as _;

use super::text::printable;
use crate::etcd::value::WrappedSeed;
use crate::kms::client::{self, KmsClient};
use crate::proto::DecryptRequest;

/// Most different seeds. An API server makes one at each start and at each rotation.
const MAX_SEEDS: usize = 200_000;
/// Calls at the same time.
const CONCURRENCY: usize = 8;
/// The longest time for one call.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Most reasons that are distinguished, and the longest one, in characters.
const MAX_REASONS: usize = 10;
const MAX_REASON: usize = 300;

/// The wrapped seeds, each with the number of its objects.
#[derive(Default)]
pub(super) struct Seeds {
    seeds: BTreeMap<WrappedSeed, u64>,
    too_many: bool,
}

/// What the agent could do with them.
#[derive(Debug, Default)]
pub(super) struct Unwrapped {
    /// Seeds that were unwrapped, and the objects under them.
    pub good: u64,
    pub objects: u64,
    /// The numbers of seeds and of objects, by the agent's reason.
    pub failed: BTreeMap<String, (u64, u64)>,
    pub too_many: bool,
}

impl Seeds {
    pub(super) fn add(&mut self, value: &[u8]) {
        let Some(seed) = WrappedSeed::of(value) else { return };
        if self.seeds.len() >= MAX_SEEDS && !self.seeds.contains_key(&seed) {
            self.too_many = true;
            return;
        }
        *self.seeds.entry(seed).or_default() += 1;
    }

    /// Asks the agent on this socket for every seed.
    pub(super) async fn unwrap_all(self, socket: &Path) -> Unwrapped {
        let mut unwrapped = Unwrapped { too_many: self.too_many, ..Unwrapped::default() };
        let client = match client::connect(socket, TIMEOUT).await {
            Ok(client) => client,
            Err(error) => {
                let objects = self.seeds.values().sum();
                unwrapped.failed.insert(printable(&error.to_string()), (self.seeds.len() as u64, objects));
                return unwrapped;
            }
        };
        let calls = self.seeds.into_iter().map(|(seed, objects)| {
            let client = client.clone();
            async move { (unwrap(client, seed).await, objects) }
        });
        let mut results = futures_util::stream::iter(calls).buffer_unordered(CONCURRENCY);
        while let Some((result, objects)) = results.next().await {
            match result {
                Ok(()) => {
                    unwrapped.good += 1;
                    unwrapped.objects += objects;
                }
                Err(why) => {
                    let is_new = !unwrapped.failed.contains_key(&why);
                    let why = if is_new && unwrapped.failed.len() >= MAX_REASONS {
                        "other reasons".into()
                    } else {
                        why
                    };
                    let count = unwrapped.failed.entry(why).or_default();
                    count.0 += 1;
                    count.1 += objects;
                }
            }
        }
        unwrapped
    }
}

/// Unwraps one seed and erases it; the agent's reason if it cannot.
async fn unwrap(mut client: KmsClient, seed: WrappedSeed) -> Result<(), String> {
    let request = DecryptRequest {
        ciphertext: seed.ciphertext.to_vec(),
        uid: "verify-etcd".into(),
        key_id: seed.key_id,
        annotations: seed.annotations.into_iter().collect(),
    };
    match client.decrypt(request).await {
        Ok(answer) => {
            answer.into_inner().plaintext.zeroize();
            Ok(())
        }
        Err(status) => Err(printable(&status.message().chars().take(MAX_REASON).collect::<String>())),
    }
}
