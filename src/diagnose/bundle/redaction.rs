//! Removes secrets from text: the known ones in every usual encoding (`disguise`), and everything that looks like a
//! secret.
//!
//! Must not know where a text comes from: every text of a bundle is redacted here.

use std::borrow::Cow;

use regex::{Captures, Regex, RegexBuilder};
use zeroize::Zeroizing;

use super::disguise::Finder;

/// Replaces a secret.
const REDACTED: &str = "[redacted]";
/// A shorter secret is not searched for: it would match parts of other words.
const MIN_KNOWN: usize = 6;
/// Largest size of the compiled patterns, in bytes.
const MAX_PATTERN: usize = 1024 * 1024;

/// What looks like a secret. The first group of a match stays in the text: it shows what kind of secret it was. Where
/// the end of a secret is not clear, a pattern matches too much rather than too little.
const PATTERNS: [&str; 11] = [
    // A private key, complete or cut off.
    r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)",
    // Tokens of Vault and OpenBao.
    r"()\b(?:hv[sbr]|[sbr])\.[A-Za-z0-9_-]{20,}",
    // JSON Web Tokens.
    r"()\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?",
    // Credentials in a unit file.
    r"(SetCredential(?:Encrypted)?=[^:\s]+:)[^\n]*(?:\\\n[^\n]*)*",
    // A user and a password in an address.
    r"(://)[^\s@]+@",
    // Headers.
    r#"(?i)((?:x-vault-token|authorization|cookie)["']?\s*[:=]\s*(?:bearer\s+|basic\s+)?)(?:"[^"\n]*"|'[^'\n]*'|[^\s'",;]+)"#,
    // Flags: --token X, -approle-secret-id=X; not those that name a file. systemd prints the words of a command
    // without quotes: everything up to the next flag may belong to the secret.
    r#"(?i)(--?[a-z-]*(?:token|secret-id|password|passwd|private-key)(?: +|=))(?:"[^"\n]*"|'[^'\n]*'|[^\s;]+(?:[ \t]+[^\s;-][^\s;]*)*)"#,
    // Environment="VAULT_TOKEN=X Y": the quotes are around the whole assignment.
    r#"(?i)("[A-Z0-9_]*(?:secret|token|password|passwd|passphrase|private_?key|api_?key|credential)[A-Z0-9_]*=)[^"\n]*"#,
    // Assignments: VAULT_TOKEN=X; not those that name a file or a time.
    r#"(?i)((?:secret_?id|secret|token|password|passwd|passphrase|private_?key|api_?key|\bcredentials?)["']?\s*=\s*)(?:"[^"\n]*"|'[^'\n]*'|[^\s'"{\[]\S*)"#,
    // The same in YAML and JSON: secret_id: X, "password": "X".
    r#"(?i)((?:secret_?id|secret|token|password|passwd|passphrase|private_?key|api_?key|\bcredentials?)["']?\s*:\s*)(?:"[^"\n]*"|'[^'\n]*'|[^\s'"{\[,}\]]+)"#,
    // Ciphertext of Transit. Without the key it is of no use, but a bundle does not need it.
    r"(vault:v\d+:)[A-Za-z0-9+/=]+",
];

/// Removes secrets from text.
pub(crate) struct Redaction {
    known: Finder,
    patterns: Vec<Regex>,
}

impl Redaction {
    /// Removes these secrets, and everything that looks like one.
    ///
    /// # Errors
    /// When a pattern does not compile: a bug.
    pub(crate) fn new(secrets: &[Zeroizing<String>]) -> Result<Self, regex::Error> {
        let compile = |pattern: &&str| RegexBuilder::new(pattern).size_limit(MAX_PATTERN).build();
        let patterns: Result<Vec<_>, _> = PATTERNS.iter().map(compile).collect();
        Ok(Self { known: finder(secrets)?, patterns: patterns? })
    }

    /// The same with other secrets: compiles only their pattern.
    #[cfg(any(test, fuzzing))]
    pub(super) fn knowing(&self, secrets: &[Zeroizing<String>]) -> Result<Self, regex::Error> {
        Ok(Self { known: finder(secrets)?, patterns: self.patterns.clone() })
    }

    /// The text without secrets.
    pub(crate) fn apply(&self, text: &str) -> String {
        let mut text: Cow<'_, str> = Cow::Borrowed(text);
        let found = self.known.find(&text);
        if !found.is_empty() {
            let mut clean = String::with_capacity(text.len());
            let mut end = 0;
            for range in found {
                clean.push_str(text.get(end..range.start).unwrap_or_default());
                clean.push_str(REDACTED);
                end = range.end;
            }
            clean.push_str(text.get(end..).unwrap_or_default());
            text = Cow::Owned(clean);
        }
        for pattern in &self.patterns {
            let replaced = pattern.replace_all(&text, |found: &Captures<'_>| {
                let kept = found.get(1).map_or("", |kept| kept.as_str());
                let whole = found.get(0).map_or("", |whole| whole.as_str());
                let value = whole.strip_prefix(kept).unwrap_or_default();
                if is_harmless(value) { whole.to_owned() } else { format!("{kept}{REDACTED}") }
            });
            if let Cow::Owned(replaced) = replaced {
                text = Cow::Owned(replaced);
            }
        }
        text.into_owned()
    }

    /// Whether no known secret is in the text, in any form.
    pub(crate) fn is_clean(&self, text: &str) -> bool {
        self.known.find(text).is_empty()
    }
}

/// Looks for these secrets in every usual encoding.
fn finder(secrets: &[Zeroizing<String>]) -> Result<Finder, regex::Error> {
    let mut known: Vec<Zeroizing<String>> = secrets
        .iter()
        .filter(|secret| secret.len() >= MIN_KNOWN)
        // In the query of an address, a space is a plus sign.
        .flat_map(|secret| [secret.clone(), Zeroizing::new(secret.replace(' ', "+"))])
        .collect();
    // The longest first: a secret may begin with a shorter one.
    known.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
    known.dedup();
    Finder::new(&known)
}

/// Whether a value is no secret: a redacted one, a word of JSON such as `null`, or a bracket.
fn is_harmless(value: &str) -> bool {
    matches!(value.trim_end_matches(','), "null" | "true" | "false" | "none" | "{" | "[")
        || value.starts_with(REDACTED)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    use data_encoding::HEXUPPER;
    use proptest::prelude::*;

    use super::*;

    fn redaction(secrets: &[&str]) -> Redaction {
        let secrets: Vec<_> = secrets.iter().map(|secret| Zeroizing::new((*secret).to_owned())).collect();
        Redaction::new(&secrets).unwrap()
    }

    #[test]
    fn a_text_that_looks_like_a_secret_is_removed_and_its_name_stays() {
        let redaction = redaction(&[]);
        for (text, gone, kept) in [
            ("Environment=VAULT_TOKEN=hunter2hunter2", "hunter2", "VAULT_TOKEN="),
            ("ExecStart=/x -token hvs.CAESIJ1234567890abcdefgh", "CAESIJ", "-token"),
            ("ExecStart=/x --approle-secret-id=0b3c5a", "0b3c5a", "--approle-secret-id="),
            ("-userpass-password \"correct horse\" -x y", "horse", "-x y"),
            ("argv[]=/x -userpass-password correct horse battery -x y ; z", "horse", " -x y ; z"),
            ("Environment=\"DB_PASSWORD=correct horse\" X=1", "horse", "X=1"),
            ("Environment=DB_PASSWORD=ab,cd;ef X=1", "cd;ef", "X=1"),
            ("https://u:a/b@host", "a/b", "host"),
            ("secret_id: 11111111-2222", "11111111", "secret_id: "),
            ("\"password\": \"abc\"", "abc", "\"password\": "),
            ("SetCredential=secret-id:abc def", "abc def", "SetCredential=secret-id:"),
            ("https://user:geheim@vault:8200", "geheim", "vault:8200"),
            ("X-Vault-Token: abcdef", "abcdef", "X-Vault-Token: "),
            ("Authorization: Bearer abcdef", "abcdef", "Authorization: Bearer "),
            ("login with s.abcdefghijklmnopqrstuvwx failed", "abcdefgh", "failed"),
            ("jwt eyJhbGciOiJSUzI1.eyJzdWIiOiJ4.c2ln ok", "eyJz", "ok"),
            ("-----BEGIN EC PRIVATE KEY-----\nMHc\nAA\n-----END EC PRIVATE KEY-----\nok", "MHc", "ok"),
            ("-----BEGIN PRIVATE KEY-----\nMIIE", "MIIE", "BEGIN PRIVATE KEY"),
            ("vault:v3:AbC+/=", "AbC", "vault:v3:"),
        ] {
            let shown = redaction.apply(text);
            assert!(!shown.contains(gone) && shown.contains(kept) && shown.contains(REDACTED), "{shown}");
        }
    }

    #[test]
    fn other_texts_stay() {
        let redaction = redaction(&[]);
        for text in [
            "secret_id_file = \"/etc/kms-plugin/secret-id\"",
            "token_file=/etc/kms-plugin/token",
            "token by approle: expires in 59m, renewable",
            "KMS_VAULT_REQUEST_ID=440ef390-b225-d42b-d0ce-70a14a33abb3",
            "kms_plugin_token_expiry_timestamp_seconds{service=\"primary\"} 1795524436",
            "key_id v1.FaLrClUL3coTMexnRLLXx1GXwBxlzpZa9ptHsnde5x8",
            "LoadCredential=secret-id:/etc/kms-plugin/secret-id",
            "{\"token\":{\"held\":true},\"other\":{\"token\":null,\"x\":1}}",
        ] {
            assert_eq!(redaction.apply(text), text);
        }
    }

    proptest! {
        // Few cases, because each compiles every pattern.
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_known_secret_is_removed_in_every_form(secret in "[ -~]{9,40}", before in "[a-z]{0,5}", after in "[a-z]{0,5}") {
            let secret = secret.trim().to_owned();
            prop_assume!(secret.len() >= 9);
            let redaction = redaction(&[&secret]);
            let inside = format!("{before}{secret}{after}");
            for text in [
                secret.clone(), inside.clone(), secret.replace(' ', "+"), HEXUPPER.encode(secret.as_bytes()),
                serde_json::to_string(&inside).unwrap(), STANDARD.encode(&inside), URL_SAFE.encode(&inside),
            ] {
                let shown = redaction.apply(&text);
                prop_assert!(redaction.is_clean(&shown), "{shown}");
                prop_assert!(shown.contains(REDACTED), "{text} {shown}");
            }
        }
    }
}
