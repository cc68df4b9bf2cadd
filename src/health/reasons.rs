//! Why the agent is not ready, in words for an operator, and what to do about it.

use super::snapshot::{Reason, ReasonKind};
use crate::key_service::{ErrorKind, KeyScope, KeyServiceError, KnownKey};

/// The key service has not answered since the start.
pub(super) fn no_contact(scope: &KeyScope) -> Reason {
    Reason {
        kind: ReasonKind::NoContact,
        text: format!("no contact with {scope} since the start"),
        remedy: "wait for the first contact; if there is none within a minute, read the log".into(),
    }
}

/// The reason that an error of the key service gives the agent.
pub(super) fn reason_of(error: &KeyServiceError) -> Reason {
    let kind = match error.kind() {
        ErrorKind::Unreachable
        | ErrorKind::NotVault
        | ErrorKind::Standby
        | ErrorKind::Throttled
        | ErrorKind::HeldBack
        | ErrorKind::Deadline
        | ErrorKind::Internal => ReasonKind::Unreachable,
        ErrorKind::Sealed => ReasonKind::Sealed,
        ErrorKind::Denied => ReasonKind::Denied,
        ErrorKind::LockedOut => ReasonKind::LockedOut,
        ErrorKind::LoginDenied => ReasonKind::LoginDenied,
        ErrorKind::WrongSetting => ReasonKind::WrongSetting,
        ErrorKind::CredentialsRefused => ReasonKind::CredentialsRefused,
        ErrorKind::CredentialsUnreadable => ReasonKind::CredentialsUnreadable,
        ErrorKind::NotFound | ErrorKind::SoftDeleted => ReasonKind::KeyMissing,
        ErrorKind::VersionGone
        | ErrorKind::VersionAhead
        | ErrorKind::BadCiphertext
        | ErrorKind::KeyUnusable => ReasonKind::KeyUnusable,
    };
    Reason { kind, text: error.to_string(), remedy: error.remedy().to_owned() }
}

/// The key cannot be read, while wrapping works.
pub(super) fn key_unreadable(error: &KeyServiceError) -> Reason {
    Reason {
        kind: ReasonKind::KeyUnreadable,
        text: format!(
            "the key's versions cannot be read, so neither a rotation nor another key under the name is noticed; wrapping worked at the last round trip: {error}"
        ),
        remedy: error.remedy().to_owned(),
    }
}

/// A known version has another creation time than before.
pub(super) fn key_replaced(scope: &KeyScope, version: u32, before: i64, now: i64) -> Reason {
    Reason {
        kind: ReasonKind::KeyReplaced,
        text: format!(
            "{scope} is another key than before: version {version} was made at {now}, not at {before} (unix seconds); nothing is written under it"
        ),
        remedy:
            "restore the old key from a backup; if nobody needs the data under it, run kms-plugin accept-key"
                .into(),
    }
}

/// In the FIPS build: the key has a type that FIPS 140-3 does not approve.
pub(super) fn key_not_approved(key: &KnownKey) -> Reason {
    Reason {
        kind: ReasonKind::KeyNotApproved,
        text: format!(
            "{} has type {}, which FIPS 140-3 does not approve: nothing is wrapped with it; what it wrapped can still be unwrapped",
            key.scope, key.key_type
        ),
        remedy: "create a key of type aes256-gcm96 and move to it: name the old key in decrypt_only (docs/operations.md)".into(),
    }
}

/// The newest version is lower than the known one.
pub(super) fn key_rolled_back(scope: &KeyScope, before: u32, now: u32) -> Reason {
    Reason {
        kind: ReasonKind::KeyRolledBack,
        text: format!(
            "{scope} is at version {now} and was at version {before}: the key service was restored from before a rotation; nothing is written under it"
        ),
        remedy: "restore a newer state of the key service; if nobody needs what was written since the rotation, raise vault.transit.key_id_epoch on every node, so that no key_id is used twice, and run kms-plugin accept-key".into(),
    }
}
