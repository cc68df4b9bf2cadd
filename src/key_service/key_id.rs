//! key_id: the public id of one version of one key. It is the same on every node.
//!
//! It is derived, not stored: SHA-256 over the key's path, version, creation time and epoch. A key that is deleted
//! and created again has another creation time, and so another id: the KMS API requires that ids are never reused.
//! The address is not part of it: all addresses of a cluster have the same key.

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{KeyDescription, KeyScope, KeyVersions, KnownKey};

/// Prefix of this plugin's ids. Ids of other plugins do not have it.
pub(crate) const PREFIX: &str = "v1.";
const DOMAIN: &[u8] = b"kms-plugin key_id";

/// The key_id of one version.
pub(crate) fn derive(scope: &KeyScope, version: u32, created: i64, epoch: u32) -> String {
    let (version, created, epoch) = (version.to_be_bytes(), created.to_be_bytes(), epoch.to_be_bytes());
    let trim = |path: &str| path.trim_matches('/').to_owned();
    let (namespace, mount) = (trim(&scope.namespace), trim(&scope.mount));
    let fields: [&[u8]; 7] =
        [DOMAIN, namespace.as_bytes(), mount.as_bytes(), scope.key.as_bytes(), &version, &created, &epoch];
    let mut hash = Context::new(&SHA256);
    for field in fields {
        // A length in front of each field: two different lists never give the same bytes.
        hash.update(&(field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(hash.finish()))
}

/// Most ids that are made to find the version of one: some milliseconds.
const MAX_SEARCH: usize = 4096;

impl KnownKey {
    /// Whether `key_id` is the id of this version, in any epoch up to the current one. Ids are made when they are asked
    /// for: a key may have very many versions and epochs.
    pub(crate) fn has_id(&self, version: u32, key_id: &str) -> bool {
        if version == self.version && key_id == &*self.key_id {
            return true;
        }
        let Some(created) = self.versions.get(version) else { return false };
        let is_of = |epoch| derive(&self.scope, version, created, epoch) == key_id;
        key_id.starts_with(PREFIX) && (0..=self.epoch).rev().any(is_of)
    }

    /// The version that has this id, for a message about a call that is refused in any case: it looks at some thousand
    /// ids, the newest ones.
    pub(crate) fn version_of(&self, key_id: &str) -> Option<u32> {
        let of_epoch = |epoch| self.versions.iter().rev().map(move |version| (version, epoch));
        let mut ids = (0..=self.epoch).rev().flat_map(of_epoch).take(MAX_SEARCH);
        let found =
            ids.find(|((version, created), epoch)| derive(&self.scope, *version, *created, *epoch) == key_id);
        found.map(|((version, _), _)| version)
    }
}

/// Combines the service's description of a key with `versions`, those that were seen. Decrypt accepts ids of every
/// epoch up to `epoch`. `None` when `versions` does not have the latest version.
pub(crate) fn known_key(
    scope: &KeyScope,
    description: &KeyDescription,
    versions: &KeyVersions,
    epoch: u32,
) -> Option<KnownKey> {
    let created = versions.get(description.latest)?;
    Some(KnownKey {
        scope: scope.clone(),
        key_id: derive(scope, description.latest, created, epoch).into(),
        version: description.latest,
        created,
        min_encryption: description.min_encryption,
        min_decryption: description.min_decryption,
        versions: versions.clone(),
        cluster_id: description.cluster_id.clone(),
        key_type: description.key_type.clone(),
        warnings: description.warnings.clone(),
        epoch,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scope(namespace: &str, mount: &str, key: &str) -> KeyScope {
        KeyScope { namespace: namespace.into(), mount: mount.into(), key: key.into() }
    }

    /// Computed with another implementation (Python's hashlib). They must never change: every id in every etcd
    /// depends on them.
    #[test]
    fn golden_vectors() {
        let id = |namespace, mount, key, version, created, epoch| {
            derive(&scope(namespace, mount, key), version, created, epoch)
        };
        assert_eq!(
            id("", "transit", "kms-key", 1, 1_700_000_000, 0),
            "v1.QeTxbHHjBpwm7K9MuCx3-cMH28AKRCzwI1IDzRXiU3c"
        );
        assert_eq!(
            id("admin", "transit", "kms-key", 1, 1_700_000_000, 0),
            "v1.TGhMEe-eF5G_9trbFeB4wHuDWorCP27OTAcZJmiHqq0"
        );
        assert_eq!(
            id("", "transit", "kms-key", 2, 1_700_000_001, 0),
            "v1.him1q7mS5RYSOD0OnBLGKkiOOrbHwyjognsOb6wNngA"
        );
        assert_eq!(
            id("", "transit", "kms-key", 1, 1_700_000_000, 1),
            "v1.mku9J7MRm23o87C9pPiN61ZO9yWuu-beQ-VZjz-H4F0"
        );
    }

    #[test]
    fn slashes_at_the_ends_do_not_matter() {
        let plain = derive(&scope("admin/team", "transit", "k"), 1, 2, 3);
        assert_eq!(derive(&scope("/admin/team/", "transit/", "k"), 1, 2, 3), plain);
    }

    #[test]
    fn ids_of_earlier_epochs_stay_accepted() {
        let scope = scope("", "transit", "k");
        let description = KeyDescription::with_two_versions();
        let versions = description.versions.clone();
        let known = known_key(&scope, &description, &versions, 1).unwrap();
        assert_eq!(*known.key_id, *derive(&scope, 2, 20, 1));
        for (version, created, epoch) in [(1, 10, 0), (1, 10, 1), (2, 20, 0), (2, 20, 1)] {
            let id = derive(&scope, version, created, epoch);
            assert!(known.has_id(version, &id) && known.version_of(&id) == Some(version));
            assert!(!known.has_id(3 - version, &id), "an id names one version");
        }
        let later = derive(&scope, 1, 10, 2);
        assert!(!known.has_id(1, &later) && known.version_of(&later).is_none(), "an id of a later epoch");
        assert!(!known.has_id(1, &derive(&scope, 1, 11, 0)), "an id of another key");
    }

    /// Hourly rotations of seven years, in the highest epoch.
    #[test]
    fn every_version_of_a_long_list_is_accepted() {
        let scope = scope("", "transit", "k");
        let most = u32::try_from(super::super::MAX_VERSIONS).unwrap();
        let versions: KeyVersions = (1..=most).map(|version| (version, i64::from(version) * 3600)).collect();
        let description = KeyDescription {
            latest: most,
            versions: versions.clone(),
            ..KeyDescription::with_two_versions()
        };
        let known = known_key(&scope, &description, &versions, 255).unwrap();
        for (version, epoch) in [(1, 0), (1, 255), (most / 2, 100), (most, 255)] {
            assert!(known.has_id(version, &derive(&scope, version, i64::from(version) * 3600, epoch)));
        }
        let copies: Vec<_> = (0..1000).map(|_| known.clone()).collect();
        assert!(copies.iter().all(|copy| *copy == known), "copies share the list");
    }

    proptest! {
        #[test]
        fn any_difference_gives_another_id(
            a in ("[a-z]{0,4}", "[a-z]{1,4}", "[a-z]{1,4}", 1u32..9, 0i64..9, 0u32..3),
            b in ("[a-z]{0,4}", "[a-z]{1,4}", "[a-z]{1,4}", 1u32..9, 0i64..9, 0u32..3),
        ) {
            let id = |x: &(String, String, String, u32, i64, u32)| derive(&scope(&x.0, &x.1, &x.2), x.3, x.4, x.5);
            prop_assert_eq!(a == b, id(&a) == id(&b));
            prop_assert!(id(&a).len() <= 1024 && id(&a).starts_with(PREFIX));
        }
    }
}
