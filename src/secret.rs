//! A secret string: zeroized when dropped, printed nowhere.
//!
//! Must not know where a secret comes from or what it opens.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256, digest};
use zeroize::Zeroizing;

/// A credential or token. `Debug` shows the first 16 bits of its SHA-256: enough to match two log
/// lines, too little to test guesses of a password against. There is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes over `value`.
    pub(crate) fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The secret itself, for the one place that sends it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// SHA-256 of the secret: tells whether a credential file changed without keeping its content.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, self.0.as_bytes()).as_ref());
        Fingerprint(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, ..] = self.fingerprint().0;
        write!(f, "Secret(#{a:02x}{b:02x})")
    }
}

/// SHA-256 of a secret; compared, never printed.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// A hash of the fingerprint for one `purpose`, to compare where the fingerprint itself should not be.
    pub(crate) fn salted(&self, purpose: &[u8]) -> String {
        let mut hash = Context::new(&SHA256);
        hash.update(purpose);
        hash.update(&self.0);
        hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, ..] = self.0;
        write!(f, "#{a:02x}{b:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_a_short_hash_and_nothing_of_the_secret() {
        let shown = format!("{:?}", Secret::new("hvs.very-secret".into()));
        assert!(!shown.contains("hvs") && !shown.contains("secret"), "{shown}");
        assert_eq!(shown.len(), "Secret(#0000)".len());
        assert_eq!(shown, format!("{:?}", Secret::new("hvs.very-secret".into())));
        assert_ne!(shown, format!("{:?}", Secret::new("hvs.other".into())));
    }
}
