//! Why the agent is not ready, in words for an operator, each with what to do.

use super::snapshot::{Reason, ReasonKind};
use crate::key_service::{ErrorKind, KeyScope, KeyServiceError};

/// Nothing was heard since the start.
pub(super) fn no_contact(scope: &KeyScope) -> Reason {
    Reason {
        kind: ReasonKind::NoContact,
        text: format!("no contact with {scope} since the start"),
        remedy: "wait for the first contact; if it stays away, look at the log".into(),
    }
}

/// What a failure of the key service means for the agent.
pub(super) fn reason_of(error: &KeyServiceError) -> Reason {
    let kind = match error.kind() {
        ErrorKind::Unreachable | ErrorKind::Throttled | ErrorKind::Deadline | ErrorKind::Internal => {
            ReasonKind::Unreachable
        }
        ErrorKind::Sealed => ReasonKind::Sealed,
        ErrorKind::Denied => ReasonKind::Denied,
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

/// A known version has another creation time than it had.
pub(super) fn key_replaced(scope: &KeyScope, version: u32, before: i64, now: i64) -> Reason {
    Reason {
        kind: ReasonKind::KeyReplaced,
        text: format!(
            "{scope} is another key than before: version {version} was made at {now}, not at {before} (unix seconds); nothing is written under it"
        ),
        remedy: "restore the old key from a backup; if the data under it is given up, kms-plugin accept-key"
            .into(),
    }
}

/// The newest version is older than the one that was known.
pub(super) fn key_rolled_back(scope: &KeyScope, before: u32, now: u32) -> Reason {
    Reason {
        kind: ReasonKind::KeyRolledBack,
        text: format!(
            "{scope} is at version {now} and was at version {before}: the key service was restored from before a rotation; nothing is written under it"
        ),
        remedy: "restore a newer state of the key service; if what was written since the rotation is given up, raise vault.transit.key_id_epoch on every node, so that no key_id is used twice, and run kms-plugin accept-key".into(),
    }
}

/// Whether a key service says no, rather than nothing.
pub(super) fn is_refusal(error: &KeyServiceError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Denied | ErrorKind::CredentialsRefused | ErrorKind::NotFound | ErrorKind::SoftDeleted
    )
}
