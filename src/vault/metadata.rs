//! What the server says beside the data of an answer: its request id, and warnings.
//!
//! Must not know what the answer is good for.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

/// Warnings that are remembered; after that many different ones, none is told any more.
const MAX_WARNINGS: usize = 64;
/// Largest part of a warning that is told, in characters.
const MAX_TEXT: usize = 300;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    request_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    warnings: Option<Vec<Cow<'a, str>>>,
}

/// Remembers which warnings were told.
#[derive(Default)]
pub(super) struct ResponseMetadata {
    told: Mutex<HashSet<String>>,
}

impl ResponseMetadata {
    /// Tells the request id at debug level (the server's audit log has the same), and each new warning once.
    pub(super) fn take(&self, body: &[u8], operation: &'static str, address: &str) {
        let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(body) else { return };
        if let Some(id) = &envelope.request_id {
            tracing::debug!(
                KMS_VAULT_OPERATION = operation,
                KMS_VAULT_ADDRESS = address,
                KMS_VAULT_REQUEST_ID = &**id,
                "{address} answered {operation}"
            );
        }
        for warning in envelope.warnings.unwrap_or_default() {
            let text: String = warning.chars().take(MAX_TEXT).filter(|c| !c.is_control()).collect();
            if self.is_new(&text) {
                tracing::warn!(
                    KMS_VAULT_OPERATION = operation,
                    KMS_VAULT_ADDRESS = address,
                    KMS_REASON = "vault_warning",
                    "{address} warns about {operation}: {text} (told once)"
                );
            }
        }
    }

    /// Times and lifetimes in a warning differ each time: they do not make it another one.
    fn is_new(&self, text: &str) -> bool {
        let text: String = text.chars().filter(|c| !c.is_ascii_digit()).collect();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < MAX_WARNINGS && told.insert(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_warning_is_new_once_and_their_number_is_bounded() {
        let metadata = ResponseMetadata::default();
        assert!(metadata.is_new("the lease of 20s is short"));
        assert!(!metadata.is_new("the lease of 17s is short"));
        for length in 0..MAX_WARNINGS * 2 {
            metadata.is_new(&"x".repeat(length));
        }
        assert!(!metadata.is_new("one more"));
    }
}
