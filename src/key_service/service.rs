//! The trait of a key service: describe its key, wrap, unwrap, and report whether it answers.

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::{AddressState, KeyDescription, KeyScope, KeyServiceError, TokenState};
use crate::clock::Deadline;

/// A key service with one key. Every call returns before its deadline.
#[async_trait]
pub trait KeyService: Send + Sync + 'static {
    fn scope(&self) -> &KeyScope;

    /// Whether the service answers. Needs no credentials, so it does not check the token or the key.
    async fn reachable(&self, deadline: Deadline) -> Result<(), KeyServiceError>;

    /// Sets the id of the cluster that had the key in an earlier run of the agent.
    fn expect_cluster(&self, _id: Option<String>) {}

    /// Reads the description of the key. Addresses of one service may lag behind each other: the answer is from one
    /// that knows version `at_least`, if there is one.
    async fn describe(&self, at_least: u32, deadline: Deadline) -> Result<KeyDescription, KeyServiceError>;

    /// Wraps `plaintext` with exactly `version` of the key, bound to `data`: without the same it is never
    /// unwrapped. Empty is none.
    async fn wrap(
        &self,
        version: u32,
        plaintext: &[u8],
        data: &[u8],
        deadline: Deadline,
    ) -> Result<Vec<u8>, KeyServiceError>;

    /// Unwraps a ciphertext of any version of the key, bound to `data`.
    async fn unwrap(
        &self,
        ciphertext: &[u8],
        data: &[u8],
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, KeyServiceError>;

    /// Confirms a refusal: tries at every address to wrap with `version`, or without a version to read the key. `Ok`
    /// if one address allows it; a refusal only if every reachable address refuses. Pass a version only if the key
    /// was read a moment ago: a server may create a missing key when it wraps.
    async fn confirm(&self, version: Option<u32>, deadline: Deadline) -> Result<(), KeyServiceError>;

    /// The key version in the ciphertext; `None` if it does not have this service's format.
    fn ciphertext_version(&self, ciphertext: &[u8]) -> Option<u32>;

    /// The last result of each address.
    fn addresses(&self) -> Vec<AddressState>;

    /// The state of our token; `None` if the service needs none.
    fn token(&self) -> Option<TokenState>;

    /// Renews the token before it expires, and reads changed credentials. Never returns; the agent runs it as a task.
    async fn maintain(&self);
}
