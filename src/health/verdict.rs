//! What the judge hears of a key service, and what it says.

use crate::key_service::{ErrorKind, KeyServiceError};

/// What a key service does for the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It wraps and unwraps.
    Primary,
    /// It only unwraps: nothing may be wrapped, not even to look at it.
    DecryptOnly,
}

/// What the agent says of a key service.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// Nothing was seen since the start.
    Unknown,
    /// It works.
    Good,
    /// It wraps and unwraps, and refuses to show the key's versions.
    Unreadable(KeyServiceError),
    /// It does not answer, or answers that it cannot serve.
    Away(KeyServiceError),
    /// It refuses. That is not confirmed yet.
    Suspected(KeyServiceError),
    /// It refuses: confirmed.
    Refused(KeyServiceError),
}

impl Verdict {
    /// Why the service cannot be used, or only in part.
    pub(super) fn error(&self) -> Option<&KeyServiceError> {
        match self {
            Self::Unknown | Self::Good => None,
            Self::Unreadable(error) | Self::Away(error) | Self::Suspected(error) | Self::Refused(error) => {
                Some(error)
            }
        }
    }

    /// Whether what the service once unwrapped may not be used any more.
    pub(super) fn ends_use(&self) -> bool {
        let ends = |kind: ErrorKind| kind.is_refusal() || kind == ErrorKind::Sealed;
        matches!(self, Self::Refused(error) if ends(error.kind()))
    }
}

/// A look that worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Good,
    /// The key was read, perhaps from a replica that lags: it is to be read again soon.
    MayLag,
}

/// What the result of a call of the API server says about the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hint {
    /// The call worked.
    Worked,
    /// There was no answer.
    NoAnswer,
    /// It was refused.
    Refused,
}
