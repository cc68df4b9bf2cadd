//! How a key service stands, as far as its keys in memory are concerned.

use super::group::Owner;
use crate::backend::{KeyScope, KeyVersions};
use crate::clock::BootTime;

/// What somebody else has found out about a key service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
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

impl Standing {
    /// Whether that version is one of its key. Before its key was read, all of that name are.
    pub(super) fn owns(&self, owner: &Owner) -> bool {
        let same = |created: &i64| *created == owner.created;
        self.scope == owner.scope
            && (self.versions.is_empty() || self.versions.get(&owner.version).is_some_and(same))
    }

    /// Whether that version is one of its key, and was switched off. The service does not show such a one.
    pub(super) fn disowns(&self, owner: &Owner) -> bool {
        let known = self.versions.get(&owner.version);
        self.scope == owner.scope
            && owner.version < self.min_version
            && known.is_none_or(|created| *created == owner.created)
    }
}
