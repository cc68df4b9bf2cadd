//! What goes wrong with a key service, in kinds that callers act on.

use std::borrow::Cow;
use std::time::Duration;

/// What went wrong, in kinds that callers act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
pub struct KeyServiceError {
    kind: ErrorKind,
    message: String,
    remedy: Cow<'static, str>,
    retry_after: Option<Duration>,
}

impl KeyServiceError {
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

    /// Whether the service is away, or our own credentials cannot be read: nobody has refused anything.
    pub fn is_outage(&self) -> bool {
        self.kind.is_outage() || self.kind == ErrorKind::CredentialsUnreadable
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
