//! What an answer holds beside its data: the request id of the server, and warnings.
//!
//! Must not know what the answer is used for.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use crate::untrusted;

/// Most different warnings that are logged. Later ones are dropped.
const MAX_WARNINGS: usize = 64;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    request_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    warnings: Option<Vec<Cow<'a, str>>>,
}

/// Logs the metadata of answers, each warning once.
#[derive(Default)]
pub(super) struct ResponseMetadata {
    logged: Mutex<HashSet<String>>,
}

impl ResponseMetadata {
    /// Logs the request id at debug level (the server's audit log has the same id), and each new warning.
    pub(super) fn log(&self, body: &[u8], operation: &'static str, address: &str) {
        let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(body) else { return };
        if let Some(id) = &envelope.request_id {
            tracing::debug!(
                KMS_VAULT_OPERATION = operation,
                KMS_VAULT_ADDRESS = address,
                KMS_VAULT_REQUEST_ID = untrusted::text(id),
                "{address} answered {operation}"
            );
        }
        for warning in envelope.warnings.unwrap_or_default() {
            let text = untrusted::text(&warning);
            if self.is_new(&text) {
                tracing::warn!(
                    KMS_VAULT_OPERATION = operation,
                    KMS_VAULT_ADDRESS = address,
                    KMS_REASON = "vault_warning",
                    "{address} warns about {operation}: {text} (logged once)"
                );
            }
        }
    }

    /// Digits are ignored: times and lifetimes in the same warning differ each time.
    fn is_new(&self, text: &str) -> bool {
        let text: String = text.chars().filter(|c| !c.is_ascii_digit()).collect();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        logged.len() < MAX_WARNINGS && logged.insert(text)
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
