//! What a key service must be able to do: describe its key, wrap, unwrap, and say whether it answers.
//!
//! The seam between the key services and everything above. Must not know gRPC, HTTP, or any service.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clock::Deadline;

/// Where a key lives, without the address: two addresses of one cluster hold the same key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyScope {
    /// Namespace without slashes at its ends; empty for the root namespace.
    pub namespace: String,
    /// Mount path without slashes at its ends.
    pub mount: String,
    /// Name of the key.
    pub key: String,
}

impl fmt::Display for KeyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{}/keys/{}", self.mount, self.key)
    }
}

/// Versions of a key and when each was made, in seconds since 1970 as the service tells it.
pub type KeyVersions = BTreeMap<u32, i64>;

/// Something about a key that an administrator should change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyWarning {
    /// What is wrong, and why it matters.
    pub text: String,
    /// What to do about it.
    pub remedy: String,
}

/// What the key service says of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDescription {
    /// The version that wraps from now on.
    pub latest: u32,
    /// The lowest version that may still wrap; 0 when only the latest is meant.
    pub min_encryption: u32,
    /// The lowest version that may still unwrap.
    pub min_decryption: u32,
    /// The versions that the service still shows.
    pub versions: KeyVersions,
    /// What an administrator should change about the key; it is used all the same.
    pub warnings: Vec<KeyWarning>,
    /// Which cluster answered, where the service has such an id.
    pub cluster_id: Option<String>,
}

/// What went wrong, in kinds that callers act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// No route, a timeout, a 5xx, a body that is not the service's.
    Unreachable,
    /// The service answers and is sealed.
    Sealed,
    /// The service asks to slow down.
    Throttled,
    /// The caller's deadline passed first.
    Deadline,
    /// The service itself refused, after a fresh login.
    Denied,
    /// The login was refused: wrong role-id, secret-id, user or password, or a locked role.
    CredentialsRefused,
    /// Our own credentials cannot be read: a missing, empty or unsafe file.
    CredentialsUnreadable,
    /// The mount or the key is not there.
    NotFound,
    /// The key is deleted, and can be brought back.
    SoftDeleted,
    /// The key version may no longer be used.
    VersionGone,
    /// The service does not have the key version yet, or no longer.
    VersionAhead,
    /// The ciphertext is not one of this key.
    BadCiphertext,
    /// The key cannot be used for this purpose at all.
    KeyUnusable,
    /// An answer that no rule covers.
    Internal,
}

impl ErrorKind {
    /// The stable name: a log field and a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Sealed => "sealed",
            Self::Throttled => "throttled",
            Self::Deadline => "deadline",
            Self::Denied => "denied",
            Self::CredentialsRefused => "credentials_refused",
            Self::CredentialsUnreadable => "credentials_unreadable",
            Self::NotFound => "not_found",
            Self::SoftDeleted => "soft_deleted",
            Self::VersionGone => "version_gone",
            Self::VersionAhead => "version_ahead",
            Self::BadCiphertext => "bad_ciphertext",
            Self::KeyUnusable => "key_unusable",
            Self::Internal => "internal",
        }
    }

    /// Whether the service is away, rather than refusing.
    pub fn is_outage(self) -> bool {
        matches!(self, Self::Unreachable | Self::Sealed | Self::Throttled | Self::Deadline | Self::Internal)
    }

    /// Whether another address may answer better.
    pub fn may_fail_over(self) -> bool {
        matches!(self, Self::Unreachable | Self::Sealed | Self::Throttled)
    }
}

/// A failure of the key service, told so that an operator can act on it. Holds no secret.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct BackendError {
    kind: ErrorKind,
    message: String,
    remedy: Cow<'static, str>,
    retry_after: Option<Duration>,
}

impl BackendError {
    /// An error of `kind`: what happened to what, and what to do about it.
    pub fn new(kind: ErrorKind, message: impl Into<String>, remedy: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), remedy: remedy.into(), retry_after: None }
    }

    /// The caller's deadline passed while `what` was under way.
    pub fn deadline(what: &str) -> Self {
        Self::new(
            ErrorKind::Deadline,
            format!("the caller's deadline passed while {what}"),
            "look at the latency between this node and the key service",
        )
    }

    /// Adds when the service wants to be asked again.
    pub fn with_retry_after(mut self, after: Option<Duration>) -> Self {
        self.retry_after = after;
        self
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What to do, in words for an operator.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    /// When to ask again, where the service said so.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// How one address of the service last answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AddressState {
    /// The address as configured, without userinfo.
    pub address: String,
    /// `None` before the first attempt.
    pub reachable: Option<bool>,
    /// Why it is not reachable.
    pub reason: Option<String>,
    /// Whether calls try it first.
    pub preferred: bool,
}

/// The state of our token, without the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenState {
    /// The login method's name.
    pub method: &'static str,
    /// Whether a token is held.
    pub held: bool,
    /// When it ends, in seconds since 1970; `None` when it does not end.
    pub expires: Option<i64>,
    /// Whether it can be renewed.
    pub renewable: bool,
    /// How many logins succeeded since the start.
    pub logins: u64,
    /// What is wrong with renewal or login, while the token still serves.
    pub problem: Option<String>,
    /// A hash of the credentials that were refused last, and will not be sent again soon; for root alone.
    #[serde(skip)]
    pub refused: Option<String>,
}

/// A key service with one key in it. Every call keeps its deadline.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Where the key lives.
    fn scope(&self) -> &KeyScope;

    /// Whether the service answers at all. Needs no credentials and proves neither token nor key.
    async fn reachable(&self, deadline: Deadline) -> Result<(), BackendError>;

    /// Tells which cluster the key is known to live in, from an earlier run.
    fn expect_cluster(&self, _id: Option<String>) {}

    /// Reads what the service says of the key. A service with several addresses that may lag behind
    /// each other answers from one that knows version `at_least`, when there is one.
    async fn describe(&self, at_least: u32, deadline: Deadline) -> Result<KeyDescription, BackendError>;

    /// Wraps `plaintext` with exactly `version` of the key, bound to `data`: without the same it is never
    /// unwrapped. Empty is none.
    async fn wrap(
        &self,
        version: u32,
        plaintext: &[u8],
        data: &[u8],
        deadline: Deadline,
    ) -> Result<Vec<u8>, BackendError>;

    /// Unwraps a ciphertext of any version of the key, bound to `data`.
    async fn unwrap(
        &self,
        ciphertext: &[u8],
        data: &[u8],
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, BackendError>;

    /// Asks every address whether it lets us wrap with `version`, or, without one, read the key. `Ok`
    /// when one does; a refusal only when every address that can be reached refuses. Wrapping is tried
    /// only with a key that was read a moment ago: a server may make a missing key at the first wrap.
    async fn confirm(&self, version: Option<u32>, deadline: Deadline) -> Result<(), BackendError>;

    /// The key version that a ciphertext names, or `None` when it is not in this service's form.
    fn ciphertext_version(&self, ciphertext: &[u8]) -> Option<u32>;

    /// How each address last answered.
    fn addresses(&self) -> Vec<AddressState>;

    /// The state of our token, where the service has such a thing.
    fn token(&self) -> Option<TokenState>;

    /// Keeps the means of access fresh. Never returns; the supervisor runs it beside the calls.
    async fn maintain(&self);
}
