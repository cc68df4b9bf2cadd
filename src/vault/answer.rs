//! What a call to the cluster returns: an answer that can be parsed, or why there is none.

use std::ops::Range;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::classification::{self, Class, Refusal};
use crate::key_service::KeyServiceError;

/// A successful answer.
pub(super) struct Answer {
    pub body: Zeroizing<Vec<u8>>,
    /// Where the ciphertext or the plaintext is in the body, if that is known.
    pub value: Option<Range<usize>>,
    pub address: usize,
}

impl Answer {
    /// Parses the answer as `T`, which has a field for the part that is used: `data` or `auth`.
    pub(super) fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, KeyServiceError> {
        serde_json::from_slice(&self.body).map_err(|_| classification::not_vault("the server"))
    }

    /// The ciphertext or the plaintext, when the judgement of the answer has found it.
    pub(super) fn value(&self) -> Option<&str> {
        std::str::from_utf8(self.body.get(self.value.clone()?)?).ok()
    }

    /// The answer's `data`.
    pub(super) fn data<T: DeserializeOwned>(&self) -> Result<T, KeyServiceError> {
        self.parse::<Data<T>>().map(|answer| answer.data)
    }
}

/// The envelope of most answers.
#[derive(Deserialize)]
pub(super) struct Data<T> {
    pub data: T,
}

/// Why a call did not succeed.
pub(super) enum CallError {
    /// The server refuses.
    Refused(Refusal),
    /// No address gave a usable answer.
    Failed(KeyServiceError),
}

impl CallError {
    /// The same, where only the refusal of a right or of the token counts as a refusal: the caller can go on without
    /// what it asked for. `what` says what was attempted.
    pub(super) fn unless_denied(self, what: &str) -> Self {
        match self {
            Self::Refused(refusal) if !matches!(refusal.class(), Class::Denied | Class::TokenDead) => {
                Self::Failed(refusal.of_transit(what))
            }
            other => other,
        }
    }
}

impl From<KeyServiceError> for CallError {
    fn from(error: KeyServiceError) -> Self {
        Self::Failed(error)
    }
}
