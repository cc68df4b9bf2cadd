//! The one value that every face renders: KMS Status, /healthz, /readyz, the STATUS line, `status`.
//!
//! Immutable once published. Must not know who renders it, nor hold anything secret.

use std::time::Duration;

use crate::clock::BootTime;
use crate::display::moment;
use crate::key_service::{AddressState, KeyScope, KnownKey, TokenState};
use crate::local_kek::LocalKekState;

/// Where the agent is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No key identity is known yet.
    Starting,
    /// Everything works.
    Ready,
    /// Something is wrong and is ridden out.
    Degraded,
    /// Something is wrong that is not, or no longer, ridden out.
    Failed,
    /// The process ends.
    Stopping,
}

impl Phase {
    /// The stable name.
    pub fn name(self) -> &'static str {
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
pub enum Announce {
    /// An error: nothing is known yet.
    Unknown,
    /// `ok` and the key_id: ready, or degraded within the grace.
    Ok,
    /// The reason and the key_id: the grace is over.
    Unhealthy,
    /// An error: refused. Only that lets the API server's writes end; a Status with a key_id extends them.
    Refused,
}

/// Why the agent is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasonKind {
    /// The first contact is not made yet.
    NoContact,
    /// The key service is away.
    Unreachable,
    /// The key service is sealed.
    Sealed,
    /// The key service refuses us.
    Denied,
    /// Our credentials are wrong.
    CredentialsRefused,
    /// Our credentials cannot be read.
    CredentialsUnreadable,
    /// The key is gone.
    KeyMissing,
    /// The key cannot serve this purpose.
    KeyUnusable,
    /// The key was deleted and made again.
    KeyReplaced,
    /// The key is older than it was.
    KeyRolledBack,
    /// The key's versions cannot be read, while wrapping works.
    KeyUnreadable,
}

impl ReasonKind {
    /// The stable name: a log field and a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoContact => "no_contact",
            Self::Unreachable => "unreachable",
            Self::Sealed => "sealed",
            Self::Denied => "denied",
            Self::CredentialsRefused => "credentials_refused",
            Self::CredentialsUnreadable => "credentials_unreadable",
            Self::KeyMissing => "key_missing",
            Self::KeyUnusable => "key_unusable",
            Self::KeyReplaced => "key_replaced",
            Self::KeyRolledBack => "key_rolled_back",
            Self::KeyUnreadable => "key_unreadable",
        }
    }

    /// Every kind.
    pub const ALL: [Self; 11] = [
        Self::NoContact,
        Self::Unreachable,
        Self::Sealed,
        Self::Denied,
        Self::CredentialsRefused,
        Self::CredentialsUnreadable,
        Self::KeyMissing,
        Self::KeyUnusable,
        Self::KeyReplaced,
        Self::KeyRolledBack,
        Self::KeyUnreadable,
    ];

    /// The kind of that name; `None` for a name of another version.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether nothing may be wrapped: the key is another one, or wrapping could make a missing one.
    pub fn forbids_wrapping(self) -> bool {
        self.is_mismatch() || self == Self::KeyMissing
    }

    /// Whether the key is another one than we know, and may be accepted.
    pub fn is_mismatch(self) -> bool {
        matches!(self, Self::KeyReplaced | Self::KeyRolledBack)
    }

    /// Whether the service is away, rather than refusing.
    pub fn is_outage(self) -> bool {
        matches!(self, Self::NoContact | Self::Unreachable | Self::Sealed | Self::CredentialsUnreadable)
    }
}

/// What is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The kind.
    pub kind: ReasonKind,
    /// What happened, to what.
    pub text: String,
    /// What an operator should do.
    pub remedy: String,
}

/// One key service: the primary, or one that only unwraps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceState {
    /// `primary`, or the name of the `decrypt_only` entry.
    pub name: String,
    /// Where its key lives.
    pub scope: KeyScope,
    /// The key, once known.
    pub key: Option<KnownKey>,
    /// Our token there.
    pub token: Option<TokenState>,
    /// Its addresses.
    pub addresses: Vec<AddressState>,
    /// What its last check found wrong.
    pub problem: Option<String>,
    /// Its last good answer.
    pub contact: Option<BootTime>,
    /// Whether it refuses us, beyond doubt: not an outage, and not ridden out.
    pub refuses: bool,
}

impl ServiceState {
    /// Whether its key was read, the last time, too: what it wrapped can be told apart and unwrapped.
    pub fn is_readable(&self) -> bool {
        self.key.is_some() && self.problem.is_none()
    }
}

/// The state of the agent at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Where the agent is in its life.
    pub phase: Phase,
    /// Since when.
    pub since: BootTime,
    /// Why it is not ready.
    pub reason: Option<Reason>,
    /// Until when a degraded agent still answers ok; `None` without an end.
    pub until: Option<BootTime>,
    /// The last good answer of the primary key service.
    pub last_contact: Option<BootTime>,
    /// What KMS Status answers.
    pub announce: Announce,
    /// Whether the key may have changed since it was last read.
    pub unread: bool,
    /// Whether a round trip has worked since the start.
    pub proven: bool,
    /// The key service that wraps.
    pub primary: ServiceState,
    /// Those that only unwrap.
    pub decrypt_only: Vec<ServiceState>,
    /// How ready it is for an outage; `None` without local KEKs.
    pub offline: Option<LocalKekState>,
}

impl Snapshot {
    /// Whether an Encrypt would work now, as far as the last check tells.
    pub fn can_wrap(&self) -> bool {
        self.phase == Phase::Ready
            || (self.phase == Phase::Degraded
                && self.reason.as_ref().is_some_and(|reason| reason.kind == ReasonKind::KeyUnreadable))
    }

    /// Whether the key service was found to refuse us; a call that works then shows that it no longer does.
    pub fn is_refused(&self) -> bool {
        let kind = self.reason.as_ref().map(|reason| reason.kind);
        matches!(kind, Some(ReasonKind::Denied | ReasonKind::CredentialsRefused))
    }

    /// What an outage that lasts too long has done, to be added to its reason; empty otherwise.
    pub fn wiped(&self) -> String {
        match &self.offline {
            Some(offline) if self.phase == Phase::Failed && self.until.is_some() => {
                let longest = humantime::format_duration(Duration::from_secs(offline.max_offline_seconds));
                format!(
                    "; it was not reached for longer than local_kek.max_offline ({longest}), so the keys in memory are wiped"
                )
            }
            _ => String::new(),
        }
    }

    /// One line: the state, since when, why and what to do. Every view shows the same. It has points in time rather
    /// than durations: systemd shows it as it was sent.
    pub fn line(&self) -> String {
        let mut line = self.summary();
        if let Some(reason) = &self.reason {
            line.push_str(&format!("; remedy: {}", reason.remedy));
        }
        match (self.phase, &self.offline) {
            (Phase::Ready, Some(offline)) => line.push_str(&format!("; {}", offline.line())),
            (Phase::Degraded, Some(offline)) if offline.keks + offline.seeds == 0 => {
                line.push_str("; no key is in memory: nothing is wrapped or unwrapped until it is back");
            }
            _ => {}
        }
        line
    }

    /// The state, since when, and why: the line without the remedy.
    pub fn summary(&self) -> String {
        let mut line = self.phase.name().to_owned();
        if let Some(key) = &self.primary.key {
            line.push_str(&format!(": {} version {}", key.scope, key.version));
        }
        line.push_str(&format!(", since {}", moment(self.since)));
        if let Some(reason) = &self.reason {
            line.push_str(&format!("; {}{}", reason.text, self.wiped()));
            if self.phase == Phase::Degraded && reason.kind.is_outage() {
                match self.until {
                    Some(until) => line.push_str(&format!("; Status stays ok until {}", moment(until))),
                    None => line.push_str("; Status stays ok without a limit"),
                }
            }
        }
        line
    }
}
