//! A secret string: zeroized when it is dropped, and never printed.
//!
//! Must not know where a secret comes from or what it is used for.

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::digest::{Context, SHA256, digest};
use data_encoding::HEXLOWER;
use serde::Deserialize;
use zeroize::{Zeroize as _, Zeroizing};

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

/// A text of a JSON document that may be a secret: a part of the document, or a copy where a character of it is escaped.
/// The copy is zeroized, but not the buffer that serde_json builds it in. (serde makes a copy of each `Option<Cow<str>>`, whatever its attributes say.)
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct JsonText<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> JsonText<'a> {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// The text as a part of the document; `None` when it is a copy.
    pub(crate) fn borrowed(&self) -> Option<&'a str> {
        match self.0 {
            Cow::Borrowed(text) => Some(text),
            Cow::Owned(_) => None,
        }
    }
}

impl Drop for JsonText<'_> {
    fn drop(&mut self) {
        if let Cow::Owned(copy) = &mut self.0 {
            copy.zeroize();
        }
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

    #[test]
    fn a_json_text_is_copied_only_where_it_is_escaped() {
        #[derive(Deserialize)]
        struct Document<'a> {
            #[serde(borrow, default)]
            text: Option<JsonText<'a>>,
        }
        let read =
            |document: &'static str| serde_json::from_str::<Document<'_>>(document).unwrap().text.unwrap();
        assert_eq!(read(r#"{"text":"plain"}"#).borrowed(), Some("plain"));
        let copy = read(r#"{"text":"an \u0065scape"}"#);
        assert_eq!((copy.borrowed(), copy.expose()), (None, "an escape"));
    }
}
