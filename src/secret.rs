//! A secret string: zeroized when it is dropped, and never printed.
//!
//! Must not know where a secret comes from or what it is used for.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256, digest};
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

/// A credential or token. `Debug` prints the first 16 bits of its SHA-256: enough to compare two log lines, and too
/// little to test a guessed password. There is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    pub(crate) fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The secret itself. Only for the code that sends it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// SHA-256 of the secret: the agent detects a changed credential file by it, without storing the content.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, self.0.as_bytes()).as_ref());
        Fingerprint(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({:?})", self.fingerprint())
    }
}

/// SHA-256 of a secret. It is compared, and never printed in full.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// A hash of `purpose` and the fingerprint, as 64 hexadecimal digits. For comparison in a place where the
    /// fingerprint itself must not be.
    pub(crate) fn salted(&self, purpose: &[u8]) -> String {
        let mut hash = Context::new(&SHA256);
        hash.update(purpose);
        hash.update(&self.0);
        HEXLOWER.encode(hash.finish().as_ref())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, ..] = self.0;
        write!(f, "#{}", HEXLOWER.encode(&[a, b]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_prints_a_short_hash_and_not_the_secret() {
        let shown = format!("{:?}", Secret::new("hvs.very-secret".into()));
        assert!(!shown.contains("hvs") && !shown.contains("secret"), "{shown}");
        assert_eq!(shown.len(), "Secret(#0000)".len());
        assert_eq!(shown, format!("{:?}", Secret::new("hvs.very-secret".into())));
        assert_ne!(shown, format!("{:?}", Secret::new("hvs.other".into())));
    }
}
