//! What a key service must be able to do: describe its key, wrap, unwrap, and report its own state.

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::{AddressState, KeyDescription, KeyScope, KeyServiceError, KeyWarning, TokenState};
use crate::clock::Deadline;

/// A key service with one key. Every call ends before its deadline.
#[async_trait]
pub(crate) trait KeyService: Send + Sync + 'static {
    /// Where the key is.
    fn scope(&self) -> &KeyScope;

    /// Whether the service answers. Needs no credentials, and checks neither the token nor the key.
    async fn reachable(&self, deadline: Deadline) -> Result<(), KeyServiceError>;

    /// Sets the cluster that the key is in, as an earlier run has saved it.
    fn expect_cluster(&self, _id: Option<String>) {}

    /// Reads the key's metadata. Some addresses of a service may lag behind others: the answer comes from one that
    /// has version `at_least`, if there is one.
    async fn describe(&self, at_least: u32, deadline: Deadline) -> Result<KeyDescription, KeyServiceError>;

    /// Wraps `plaintext` with exactly `version` of the key.
    /// `aad`: AAD; must match on unwrap. Empty means none.
    async fn wrap(
        &self,
        version: u32,
        plaintext: &[u8],
        aad: &[u8],
        deadline: Deadline,
    ) -> Result<Vec<u8>, KeyServiceError>;

    /// Unwraps a ciphertext of any version of the key. `aad` must be that of the wrap.
    async fn unwrap(
        &self,
        ciphertext: &[u8],
        aad: &[u8],
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, KeyServiceError>;

    /// Tries one address after the other, until one allows it: to wrap and unwrap with `version`, or to read the key
    /// when `version` is `None`. A refusal only when every reachable address refuses. Pass a version only if the key
    /// was read a moment ago: some servers create a missing key at the first wrap.
    async fn confirm(&self, version: Option<u32>, deadline: Deadline) -> Result<(), KeyServiceError>;

    /// The key version in a ciphertext; `None` when it is not a ciphertext of this kind of service.
    fn ciphertext_version(&self, ciphertext: &[u8]) -> Option<u32>;

    /// How each address last answered.
    fn addresses(&self) -> Vec<AddressState>;

    /// The state of the agent's token, where the service has tokens.
    fn token(&self) -> Option<TokenState>;

    /// The warning about a configured namespace that the service ignores.
    fn ignored_namespace(&self) -> Option<KeyWarning> {
        None
    }

    /// Completes when `addresses()`, `token()` or `ignored_namespace()` may show something new since the last call. Changes that come
    /// together may be reported once. One caller at a time.
    async fn changed(&self) {
        std::future::pending::<()>().await;
    }

    /// Renews the token and logs in ahead of time. Never returns: the agent runs it in its own task.
    async fn maintain(&self);
}
