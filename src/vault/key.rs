//! What Transit reports about a key, and whether the agent can use it. Pure.

use serde::Deserialize;

use super::classification::Cause;
use crate::clock::unix_seconds;
use crate::key_service::{KeyDescription, KeyVersions, KeyWarning, MAX_VERSIONS, ShownVersions};
use crate::untrusted;

/// Key types that authenticate what they encrypt. With others, a changed ciphertext could be decrypted without an
/// error.
const AEAD_TYPES: [&str; 4] = ["aes256-gcm96", "aes128-gcm96", "chacha20-poly1305", "xchacha20-poly1305"];
/// Age of the newest version from which a rotation is advised, in seconds.
const ROTATION_ADVISED: i64 = 90 * 86_400;

/// `data` of `GET <mount>/keys/<key>`.
#[derive(Deserialize)]
pub(super) struct KeyData {
    #[serde(rename = "type", deserialize_with = "untrusted::deserialize")]
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
    keys: ShownVersions,
}

impl KeyData {
    /// The key as the agent knows it. Call it for a key without a [problem](Self::problem). `path` is for the
    /// remedies of its warnings.
    pub(super) fn describe(self, path: &str) -> KeyDescription {
        KeyDescription {
            latest: self.latest_version,
            min_encryption: self.min_encryption_version,
            min_decryption: self.min_decryption_version,
            warnings: self.warnings(&self.keys.versions, path),
            versions: self.keys.versions,
            key_type: self.key_type.into(),
            cluster_id: None,
        }
    }

    /// Why the key cannot be used, if it cannot. A key with a risky setting gets a warning instead.
    pub(super) fn problem(&self) -> Option<(Cause, String)> {
        let key_type = &self.key_type;
        let unusable = |text: String| Some((Cause::KeyUnusable, text));
        match () {
            () if self.soft_deleted => Some((Cause::KeySoftDeleted, "the key is soft-deleted".into())),
            () if !self.supports_encryption => {
                unusable(format!("the key has type {key_type}, which cannot encrypt"))
            }
            () if !AEAD_TYPES.contains(&self.key_type.as_str()) => {
                unusable(format!("the key has type {key_type}, which does not authenticate what it encrypts"))
            }
            () if self.derived => unusable("it is a derived key: it needs a context with every call".into()),
            () if !self.keys.versions.contains(self.latest_version) => unusable(format!(
                "the key does not show when its version {} was created: it was not made by Vault or OpenBao",
                self.latest_version
            )),
            () => None,
        }
    }

    fn warnings(&self, versions: &KeyVersions, path: &str) -> Vec<KeyWarning> {
        let created = versions.get(self.latest_version);
        let age = created.map_or(0, |created| unix_seconds().saturating_sub(created));
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
            self.keys.is_cut,
            format!(
                "the key has more than {MAX_VERSIONS} versions: the agent keeps the newest, and refuses data under older ones"
            ),
            format!(
                "rewrite all data under the newest version, then {}",
                set("min_decryption_version=VERSION")
            ),
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

    fn key(changes: serde_json::Value, age: i64) -> KeyData {
        let mut data = serde_json::json!({
            "type": "aes256-gcm96", "latest_version": 2, "supports_encryption": true,
            "keys": { "1": 1_000_000, "2": unix_seconds() - age },
        });
        data.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        serde_json::from_value(data).unwrap()
    }

    fn warnings(changes: serde_json::Value, age: i64) -> Vec<KeyWarning> {
        let key = key(changes, age);
        assert_eq!(key.problem(), None);
        key.describe("transit/keys/k").warnings
    }

    #[test]
    fn a_risky_setting_gives_a_warning_with_its_remedy() {
        let none = serde_json::json!({});
        assert!(warnings(none.clone(), 89 * 86_400).is_empty());
        let old = warnings(none, 91 * 86_400);
        assert_eq!(old.len(), 1);
        assert!(
            old[0].text.contains("91 days old") && old[0].remedy == "vault write -f transit/keys/k/rotate"
        );
        for (setting, word) in [
            ("exportable", "exportable"),
            ("deletion_allowed", "may be deleted"),
            ("allow_plaintext_backup", "plaintext backup"),
        ] {
            let warnings = warnings(serde_json::json!({ setting: true }), 0);
            assert!(warnings.len() == 1 && warnings[0].text.contains(word), "{warnings:?}");
        }
    }

    /// A key that rotates each hour for eight years: the agent goes on, and says what it does not keep.
    #[test]
    fn a_list_beyond_the_limit_gives_a_warning_and_the_newest_version_is_there() {
        let latest = MAX_VERSIONS as u64 + 6000;
        let mut keys: serde_json::Map<String, serde_json::Value> =
            (1..latest).map(|version| (version.to_string(), version.into())).collect();
        keys.insert(latest.to_string(), unix_seconds().into());
        let key = key(serde_json::json!({ "keys": keys, "latest_version": latest }), 0);
        assert_eq!(key.problem(), None);
        let description = key.describe("transit/keys/k");
        assert!(description.versions.contains(description.latest));
        assert_eq!(description.versions.iter().count(), MAX_VERSIONS);
        let [warning] = &description.warnings[..] else { panic!("{:?}", description.warnings) };
        assert!(warning.text.contains("more than 64000 versions"), "{warning:?}");
        assert!(warning.remedy.contains("min_decryption_version="), "{warning:?}");
    }

    #[test]
    fn no_creation_time_makes_a_panic() {
        for created in [i64::MIN, -1, 0, 253_402_300_800, i64::MAX] {
            let key = key(serde_json::json!({ "keys": { "2": created } }), 0);
            assert_eq!(key.problem(), None);
            let warnings = key.describe("transit/keys/k").warnings;
            assert_eq!(warnings.len(), usize::from(created <= 0), "{created}: {warnings:?}");
        }
    }

    #[test]
    fn a_key_that_cannot_be_used_is_refused() {
        let cause = |changes| key(changes, 0).problem().unwrap().0;
        assert_eq!(cause(serde_json::json!({ "soft_deleted": true })), Cause::KeySoftDeleted);
        for changes in [
            serde_json::json!({ "supports_encryption": false, "type": "ed25519" }),
            serde_json::json!({ "type": "rsa-2048" }),
            serde_json::json!({ "derived": true }),
            serde_json::json!({ "keys": {} }),
        ] {
            assert_eq!(cause(changes), Cause::KeyUnusable);
        }
    }
}
