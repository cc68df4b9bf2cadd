//! What Transit reports about a key, and whether the agent can use it.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::clock::unix_seconds;
use crate::key_service::{ErrorKind, KeyDescription, KeyServiceError, KeyVersions, KeyWarning};

/// Key types that authenticate what they encrypt. With others, a changed ciphertext could be decrypted without an
/// error.
const AEAD_TYPES: [&str; 4] = ["aes256-gcm96", "aes128-gcm96", "chacha20-poly1305", "xchacha20-poly1305"];
/// Age of the newest version from which a rotation is advised, in seconds.
const ROTATION_ADVISED: i64 = 90 * 86_400;

/// `data` of `GET <mount>/keys/<key>`.
#[derive(Deserialize)]
pub(super) struct KeyData {
    #[serde(rename = "type")]
    key_type: String,
    latest_version: u32,
    #[serde(default)]
    min_decryption_version: u32,
    #[serde(default)]
    min_encryption_version: u32,
    #[serde(default)]
    supports_encryption: bool,
    #[serde(default)]
    derived: bool,
    #[serde(default)]
    exportable: bool,
    #[serde(default)]
    deletion_allowed: bool,
    #[serde(default)]
    allow_plaintext_backup: bool,
    #[serde(default)]
    soft_deleted: bool,
    #[serde(default)]
    keys: BTreeMap<String, serde_json::Value>,
}

impl KeyData {
    /// The key as the agent knows it, when it can be used. `path` names it in errors.
    pub(super) fn describe(self, path: &str) -> Result<KeyDescription, KeyServiceError> {
        self.usable(path)?;
        let parse = |(version, created): (&String, &serde_json::Value)| {
            Some((version.parse::<u32>().ok()?, created.as_i64()?))
        };
        let versions: KeyVersions = self.keys.iter().filter_map(parse).collect();
        if !versions.contains_key(&self.latest_version) {
            return Err(KeyServiceError::new(
                ErrorKind::KeyUnusable,
                format!("{path} does not show when its version {} was created", self.latest_version),
                "use a symmetric Transit key that Vault or OpenBao created itself",
            ));
        }
        Ok(KeyDescription {
            latest: self.latest_version,
            min_encryption: self.min_encryption_version,
            min_decryption: self.min_decryption_version,
            warnings: self.warnings(&versions, path),
            versions,
            cluster_id: None,
        })
    }

    /// Refuses a key that cannot be used. A key with a risky setting gets a warning instead.
    fn usable(&self, path: &str) -> Result<(), KeyServiceError> {
        let unusable = |message: String, remedy: String| {
            Err(KeyServiceError::new(ErrorKind::KeyUnusable, message, remedy))
        };
        let aead = "create a key of type aes256-gcm96 (vault write -f transit/keys/NAME type=aes256-gcm96)"
            .to_owned();
        if self.soft_deleted {
            return Err(KeyServiceError::new(
                ErrorKind::SoftDeleted,
                format!("{path} is soft-deleted"),
                format!("restore it: vault write -f {path}/soft-delete-restore"),
            ));
        }
        if !self.supports_encryption {
            return unusable(format!("{path} has type {}, which cannot encrypt", self.key_type), aead);
        }
        if !AEAD_TYPES.contains(&self.key_type.as_str()) {
            return unusable(
                format!("{path} has type {}, which does not authenticate what it encrypts", self.key_type),
                aead,
            );
        }
        if self.derived {
            return unusable(format!("{path} is a derived key: it needs a context with every call"), aead);
        }
        Ok(())
    }

    fn warnings(&self, versions: &KeyVersions, path: &str) -> Vec<KeyWarning> {
        let age = versions.get(&self.latest_version).map_or(0, |created| unix_seconds() - created);
        let set = |setting: &str| format!("vault write {path}/config {setting}");
        let irreversible =
            "this setting cannot be changed back: create another key and move to it (docs/operations.md)"
                .to_owned();
        let mut warnings = Vec::new();
        let mut warn = |applies: bool, text: String, remedy: String| {
            if applies {
                warnings.push(KeyWarning { text, remedy });
            }
        };
        warn(
            self.exportable,
            "the key is exportable: everybody who may export it can copy it out of the key service".into(),
            irreversible.clone(),
        );
        warn(
            self.deletion_allowed,
            "the key may be deleted (deletion_allowed): then every Secret would be lost".into(),
            set("deletion_allowed=false"),
        );
        warn(
            self.allow_plaintext_backup,
            "the key allows a plaintext backup: everybody who may make a backup can copy the key".into(),
            irreversible,
        );
        warn(
            self.key_type != "aes256-gcm96",
            format!("the key has type {}; aes256-gcm96 is the usual one", self.key_type),
            "nothing to do now; create the next key with type aes256-gcm96".into(),
        );
        warn(
            age > ROTATION_ADVISED,
            format!("the newest version of the key is {} days old", age / 86_400),
            format!("vault write -f {path}/rotate"),
        );
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(changes: serde_json::Value, age: i64) -> Result<KeyDescription, KeyServiceError> {
        let mut data = serde_json::json!({
            "type": "aes256-gcm96", "latest_version": 2, "supports_encryption": true,
            "keys": { "1": 1_000_000, "2": unix_seconds() - age },
        });
        data.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        serde_json::from_value::<KeyData>(data).unwrap().describe("transit/keys/k")
    }

    #[test]
    fn a_risky_setting_gives_a_warning_with_its_remedy() {
        let none = serde_json::json!({});
        assert!(described(none.clone(), 89 * 86_400).unwrap().warnings.is_empty());
        let old = described(none, 91 * 86_400).unwrap().warnings;
        assert_eq!(old.len(), 1);
        assert!(
            old[0].text.contains("91 days old") && old[0].remedy == "vault write -f transit/keys/k/rotate"
        );
        for (setting, word) in [
            ("exportable", "exportable"),
            ("deletion_allowed", "may be deleted"),
            ("allow_plaintext_backup", "plaintext backup"),
        ] {
            let warnings = described(serde_json::json!({ setting: true }), 0).unwrap().warnings;
            assert!(warnings.len() == 1 && warnings[0].text.contains(word), "{warnings:?}");
        }
    }

    #[test]
    fn a_key_that_cannot_be_used_is_refused() {
        let soft_deleted = described(serde_json::json!({ "soft_deleted": true }), 0);
        assert_eq!(soft_deleted.unwrap_err().kind(), ErrorKind::SoftDeleted);
        for changes in [
            serde_json::json!({ "supports_encryption": false, "type": "ed25519" }),
            serde_json::json!({ "type": "rsa-2048" }),
            serde_json::json!({ "derived": true }),
            serde_json::json!({ "keys": {} }),
        ] {
            assert_eq!(described(changes, 0).unwrap_err().kind(), ErrorKind::KeyUnusable);
        }
    }
}
