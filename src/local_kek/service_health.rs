//! How key services stand, as far as their keys in memory are concerned.

use super::group::Owner;
use crate::clock::BootTime;
use crate::key_service::{KeyScope, KeyVersions};

/// What somebody else has found out about a key service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceHealth {
    /// Where its key lives.
    pub scope: KeyScope,
    /// Every version of its key that was ever seen, and when it was made. Two clusters may have keys of one name:
    /// this tells them apart.
    pub versions: KeyVersions,
    /// Its last good answer; `None` when there was none, or it is in doubt.
    pub contact: Option<BootTime>,
    /// Whether it refuses us beyond doubt.
    pub refuses: bool,
    /// The lowest version of its key that still unwraps; 0 when it is not known.
    pub min_version: u32,
}

/// What all key services together say of one version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Eligibility {
    /// The last good answer of one that has this version.
    pub contact: Option<BootTime>,
    /// All that may have it refuse.
    pub refused: bool,
    /// All that may have it have switched it off.
    pub below_min_version: bool,
}

impl Eligibility {
    /// Asks those that have the version; when none has, those whose key has the name: the version may be one that a
    /// service no longer shows, or of a key that is given up. One alone that still lets it be unwrapped decides.
    pub(super) fn of(owner: &Owner, services: &[ServiceHealth]) -> Self {
        let named = || services.iter().filter(|standing| standing.scope == owner.scope);
        let has = |standing: &&ServiceHealth| standing.versions.get(&owner.version) == Some(&owner.created);
        let owners: Vec<&ServiceHealth> = named().filter(has).collect();
        let those = if owners.is_empty() { named().collect() } else { owners.clone() };
        // Of one that was not read in this run yet, an answer tells nothing.
        let good = owners.iter().filter(|standing| !standing.refuses);
        Self {
            contact: good.filter_map(|standing| standing.contact).max(),
            refused: !those.is_empty() && those.iter().all(|standing| standing.refuses),
            below_min_version: !those.is_empty()
                && those.iter().all(|standing| owner.version < standing.min_version),
        }
    }
}
