//! What a key service must be able to do: describe its key, wrap, unwrap, and say whether it answers.

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::{AddressState, KeyDescription, KeyScope, KeyServiceError, TokenState};
use crate::clock::Deadline;

/// A key service with one key in it. Every call keeps its deadline.
#[async_trait]
pub trait KeyService: Send + Sync + 'static {
    /// Where the key lives.
    fn scope(&self) -> &KeyScope;

    /// Whether the service answers at all. Needs no credentials and proves neither token nor key.
    async fn reachable(&self, deadline: Deadline) -> Result<(), KeyServiceError>;

    /// Tells which cluster the key is known to live in, from an earlier run.
    fn expect_cluster(&self, _id: Option<String>) {}

    /// Reads what the service says of the key. A service with several addresses that may lag behind
    /// each other answers from one that knows version `at_least`, when there is one.
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

    /// Asks every address whether it lets us wrap with `version`, or, without one, read the key. `Ok`
    /// when one does; a refusal only when every address that can be reached refuses. Wrapping is tried
    /// only with a key that was read a moment ago: a server may make a missing key at the first wrap.
    async fn confirm(&self, version: Option<u32>, deadline: Deadline) -> Result<(), KeyServiceError>;

    /// The key version that a ciphertext names, or `None` when it is not in this service's form.
    fn ciphertext_version(&self, ciphertext: &[u8]) -> Option<u32>;

    /// How each address last answered.
    fn addresses(&self) -> Vec<AddressState>;

    /// The state of our token, where the service has such a thing.
    fn token(&self) -> Option<TokenState>;

    /// Completes when `addresses()` or `token()` may show something new since the last call. Changes that come together
    /// may be reported once.
    async fn changed(&self) {
        std::future::pending().await
    }

    /// Keeps the means of access fresh. Never returns; the supervisor runs it beside the calls.
    async fn maintain(&self);
}
