//! The state of the agent at one moment. All outputs render it: KMS Status, /healthz, /readyz, the STATUS line,
//! metrics and `kms-plugin status`.
//!
//! It does not change once published, and holds nothing secret. Must not know who renders it.

use std::sync::Arc;

use crate::clock::BootTime;
use crate::key_service::{AddressState, KeyScope, KeyWarning, KnownKey, TokenState};
use crate::local_kek::LocalKekState;

/// The phase of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No round trip has worked yet: neither in this run, nor in an earlier one of this boot.
    Starting,
    /// Everything works.
    Ready,
    /// There is a fault, and KMS Status is still ok: an outage within the grace period, a refusal that is not
    /// confirmed, or a key that cannot be read while wrapping works.
    Degraded,
    /// There is a fault, and KMS Status is not ok: a confirmed refusal, another key, or an outage after the grace
    /// period.
    Failed,
    /// The process stops.
    Stopping,
}

impl Phase {
    /// The stable name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
            Self::Stopping => "stopping",
        }
    }
}

/// What KMS Status answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Announce {
    /// An error: the agent is still starting.
    Unknown,
    /// `ok` and the key_id: ready or degraded.
    Ok,
    /// The reason and the key_id: the grace period is over.
    Unhealthy,
    /// An error: a confirmed refusal, or another key. Only an error stops the writes of the API server: after each
    /// Status with a key_id, it may write for some more minutes.
    Refused,
}

/// Why the agent is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReasonKind {
    /// There was no contact since the start.
    NoContact,
    /// The key service cannot be reached, or fails.
    Unreachable,
    Sealed,
    /// The key service refuses our requests.
    Denied,
    /// The key service names a setting that does not fit: a namespace, a mount, a role.
    WrongSetting,
    /// The key service has locked our login after wrong credentials, which another node may have sent.
    LockedOut,
    /// The key service refuses our login or its token, and not because of the credentials or a policy.
    LoginDenied,
    /// The key service refuses our credentials.
    CredentialsRefused,
    /// Our credentials cannot be read.
    CredentialsUnreadable,
    /// The key does not exist any more.
    KeyMissing,
    /// The key cannot serve this purpose.
    KeyUnusable,
    /// The key was deleted and created again.
    KeyReplaced,
    /// The newest version of the key is lower than before.
    KeyRolledBack,
    /// The FIPS build: the key has a type that FIPS 140-3 does not approve.
    KeyNotApproved,
    /// The key's versions cannot be read, while wrapping works.
    KeyUnreadable,
    /// The configuration does not load, so there is no key service yet.
    Configuration,
}

impl ReasonKind {
    /// The stable name: a log field and a label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NoContact => "no_contact",
            Self::Unreachable => "unreachable",
            Self::Sealed => "sealed",
            Self::Denied => "denied",
            Self::WrongSetting => "wrong_setting",
            Self::LockedOut => "locked_out",
            Self::LoginDenied => "login_denied",
            Self::CredentialsRefused => "credentials_refused",
            Self::CredentialsUnreadable => "credentials_unreadable",
            Self::KeyMissing => "key_missing",
            Self::KeyUnusable => "key_unusable",
            Self::KeyReplaced => "key_replaced",
            Self::KeyRolledBack => "key_rolled_back",
            Self::KeyNotApproved => "key_not_approved",
            Self::KeyUnreadable => "key_unreadable",
            Self::Configuration => "configuration",
        }
    }

    pub(crate) const ALL: [Self; 16] = [
        Self::NoContact,
        Self::Unreachable,
        Self::Sealed,
        Self::Denied,
        Self::WrongSetting,
        Self::LockedOut,
        Self::LoginDenied,
        Self::CredentialsRefused,
        Self::CredentialsUnreadable,
        Self::KeyMissing,
        Self::KeyUnusable,
        Self::KeyReplaced,
        Self::KeyRolledBack,
        Self::KeyNotApproved,
        Self::KeyUnreadable,
        Self::Configuration,
    ];

    /// The kind with this name; `None` for a name of another version of the agent.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether nothing may be wrapped: the key is another one, it is missing and a wrap could create it, or FIPS 140-3
    /// does not approve its type.
    pub(crate) fn forbids_wrapping(self) -> bool {
        self.is_mismatch() || matches!(self, Self::KeyMissing | Self::KeyNotApproved)
    }

    /// Whether the key that was read is not the known key. `kms-plugin accept-key` accepts it.
    pub(crate) fn is_mismatch(self) -> bool {
        matches!(self, Self::KeyReplaced | Self::KeyRolledBack)
    }

    /// Whether the cause is an outage, and not a refusal.
    pub(crate) fn is_outage(self) -> bool {
        matches!(
            self,
            Self::NoContact
                | Self::Unreachable
                | Self::Sealed
                | Self::LockedOut
                | Self::CredentialsUnreadable
        )
    }
}

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    pub kind: ReasonKind,
    /// What happened, to what.
    pub text: String,
    /// What an operator should do.
    pub remedy: String,
}

/// One key service: the primary, or one that only unwraps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceState {
    /// `primary`, or the name of the `decrypt_only` entry.
    pub name: String,
    /// Where its key lives: namespace, mount and name.
    pub scope: KeyScope,
    /// The key, once known.
    pub key: Option<KnownKey>,
    pub token: Option<TokenState>,
    pub addresses: Vec<AddressState>,
    /// The error of its last check.
    pub problem: Option<String>,
    /// The warning about a configured namespace that the service ignores. Everything works all the same.
    pub ignored_namespace: Option<KeyWarning>,
    /// Its last good answer. For the primary, only while wrapping works.
    pub last_contact: Option<BootTime>,
    /// When the keys that it once unwrapped are wiped, because it refuses. They are not used any more from the
    /// confirmation on; `None` while no refusal is confirmed.
    pub wipe_at: Option<BootTime>,
}

impl ServiceState {
    /// Whether its key is known and the last check worked: what it wrapped can be recognized and unwrapped.
    pub(crate) fn is_readable(&self) -> bool {
        self.key.is_some() && self.problem.is_none()
    }
}

/// The configuration that is in use, and whether it is the one on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConfigState {
    /// The digest of the files that the settings in use came from; empty when they came from no file.
    pub digest: Arc<str>,
    /// Why the agent does not use the configuration on disk; `None` when it uses it.
    pub problem: Option<Arc<str>>,
}

/// The state of the agent at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub phase: Phase,
    /// When the phase began.
    pub since: BootTime,
    /// Why the agent is not ready.
    pub reason: Option<Reason>,
    /// When KMS Status stops answering ok; `None` outside an outage, and without a limit.
    pub grace_end: Option<BootTime>,
    /// When a round trip with the primary worked last.
    pub last_contact: Option<BootTime>,
    /// What KMS Status answers.
    pub announce: Announce,
    /// Whether the key may have changed since the last read: after a start, and after an outage.
    pub key_stale: bool,
    /// Whether a round trip has worked since the start.
    pub verified: bool,
    /// The key service that wraps.
    pub primary: ServiceState,
    /// The key services that only unwrap.
    pub decrypt_only: Vec<ServiceState>,
    /// Whether the agent can serve without the key service; `None` while local KEKs are off.
    pub local_keks: Option<LocalKekState>,
    /// The configuration in use. The agent sets it: a key service knows nothing of files.
    pub config: ConfigState,
}

impl Snapshot {
    /// All key services, the one that wraps first.
    pub(crate) fn services(&self) -> impl Iterator<Item = &ServiceState> {
        std::iter::once(&self.primary).chain(&self.decrypt_only)
    }

    /// Whether an Encrypt would work now, according to the last check.
    pub(crate) fn can_wrap(&self) -> bool {
        self.phase == Phase::Ready
            || (self.phase == Phase::Degraded
                && self.reason.as_ref().is_some_and(|reason| reason.kind == ReasonKind::KeyUnreadable))
    }

    /// Whether the key that was read last is not the known one.
    pub(crate) fn has_another_key(&self) -> bool {
        self.reason.as_ref().is_some_and(|reason| reason.kind.is_mismatch())
    }
}
