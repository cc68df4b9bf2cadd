//! Errors of a key service. Their kinds decide what the callers do.

use std::borrow::Cow;
use std::time::Duration;

/// The kind of an error: it decides about retries, failover and the health of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ErrorKind {
    /// No connection, a timeout, a status 5xx, or a body that the service does not send (a proxy's page).
    Unreachable,
    /// Something answered, but not as the service does: a proxy, a balancer, or another server.
    NotVault,
    /// The service answers that it is sealed.
    Sealed,
    /// The server is a standby without an active node, was removed from the cluster, or is a secondary of disaster
    /// recovery. Another address may serve.
    Standby,
    /// The service answers that there are too many requests.
    Throttled,
    /// The agent did not send the request, because it limits its own requests. This says nothing about the service.
    HeldBack,
    /// The caller's deadline passed first.
    Deadline,
    /// The service refused the request, also after a fresh login.
    Denied,
    /// The login was refused: wrong role-id, secret-id, user or password.
    CredentialsRefused,
    /// The service has locked the login after wrong credentials, which another node may have sent. It says nothing
    /// about us: it ends by itself.
    LockedOut,
    /// The service refuses the login, or the token that it gave, and not because of the credentials or a policy.
    LoginDenied,
    /// The service names a setting that does not fit: a namespace, a mount, a role, the network of a login.
    WrongSetting,
    /// The agent cannot read its own credentials: a missing, empty or unsafe file.
    CredentialsUnreadable,
    /// The key does not exist.
    NotFound,
    /// The key is soft-deleted: an administrator can restore it.
    SoftDeleted,
    /// The key version may no longer be used: it is below the minimum version.
    VersionGone,
    /// The service does not have the key version: a standby lags behind, or the key was rolled back.
    VersionAhead,
    /// The ciphertext was not made by this key, or it is damaged.
    BadCiphertext,
    /// The key has the wrong type, or the key service does not wrap and unwrap as it must.
    KeyUnusable,
    /// A response that no rule covers, or an error of the agent itself.
    Internal,
}

impl ErrorKind {
    /// The stable name: a log field and a label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::NotVault => "not_vault",
            Self::Sealed => "sealed",
            Self::Standby => "standby",
            Self::Throttled => "throttled",
            Self::HeldBack => "held_back",
            Self::Deadline => "deadline",
            Self::Denied => "denied",
            Self::CredentialsRefused => "credentials_refused",
            Self::LockedOut => "locked_out",
            Self::LoginDenied => "login_denied",
            Self::WrongSetting => "wrong_setting",
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

    /// Whether the service did not process the request, so that it refused nothing.
    pub(crate) fn is_outage(self) -> bool {
        matches!(
            self,
            Self::Unreachable
                | Self::NotVault
                | Self::Sealed
                | Self::Standby
                | Self::Throttled
                | Self::HeldBack
                | Self::Deadline
                | Self::LockedOut
                | Self::Internal
        )
    }

    /// Whether the service refuses us, rather than being away or failing.
    pub(crate) fn is_refusal(self) -> bool {
        matches!(self, Self::Denied | Self::CredentialsRefused | Self::LoginDenied | Self::WrongSetting)
            || self.is_missing_key()
    }

    /// Whether the call did not get to the key, which may be another one by now.
    pub(crate) fn hides_key(self) -> bool {
        let login = matches!(
            self,
            Self::CredentialsRefused | Self::LoginDenied | Self::WrongSetting | Self::CredentialsUnreadable
        );
        // A request that was not sent tells nothing new.
        login || (self.is_outage() && self != Self::HeldBack)
    }

    /// Whether there is no key to use.
    pub(crate) fn is_missing_key(self) -> bool {
        matches!(self, Self::NotFound | Self::SoftDeleted)
    }

    /// Whether one answer is enough to believe it: no server says it by mistake, or while it starts.
    pub(crate) fn needs_no_confirmation(self) -> bool {
        matches!(self, Self::KeyUnusable | Self::SoftDeleted)
    }

    /// Whether the request is retried at another address.
    pub(crate) fn may_fail_over(self) -> bool {
        matches!(self, Self::Unreachable | Self::NotVault | Self::Sealed | Self::Standby | Self::Throttled)
    }
}

/// An error of a key service, with a text and a remedy for an operator. Contains no secret.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct KeyServiceError {
    kind: ErrorKind,
    message: String,
    remedy: Cow<'static, str>,
    retry_after: Option<Duration>,
}

impl KeyServiceError {
    /// `message` says what happened and to what. `remedy` says what to do.
    pub(crate) fn new(
        kind: ErrorKind,
        message: impl Into<String>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { kind, message: message.into(), remedy: remedy.into(), retry_after: None }
    }

    /// The caller's deadline passed while `what` was under way.
    pub(crate) fn deadline(what: &str) -> Self {
        Self::new(
            ErrorKind::Deadline,
            format!("the caller's deadline passed while {what}"),
            "check the latency between this node and the key service",
        )
    }

    /// Adds the time to wait before the next request, if the service sent one (Retry-After).
    pub(crate) fn with_retry_after(mut self, after: Option<Duration>) -> Self {
        self.retry_after = after;
        self
    }

    /// Whether the service did not process the request, or the agent cannot read its credentials. In both cases the
    /// service refused nothing.
    pub(crate) fn is_outage(&self) -> bool {
        self.kind.is_outage() || self.kind == ErrorKind::CredentialsUnreadable
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What an operator should do.
    pub(crate) fn remedy(&self) -> &str {
        &self.remedy
    }

    /// The time to wait before the next request, if the service sent one.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}
