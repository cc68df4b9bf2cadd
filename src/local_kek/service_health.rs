//! The health of the key services, and what it means for the cached keys of one key version.

use super::group::WrappingKey;
use crate::clock::BootTime;
use crate::key_service::{KeyScope, KeyVersions};

/// The health of one key service. `health` decides it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceHealth {
    pub scope: KeyScope,
    /// Every version of its key that was ever seen, and when it was created. Two clusters may have keys with the same
    /// name: the creation times differ.
    pub versions: KeyVersions,
    /// When it last answered successfully; `None` when it never did, or when a later refusal is not confirmed yet.
    pub contact: Option<BootTime>,
    /// When the keys that it once unwrapped are wiped, because it refuses the agent; `None` while no refusal is
    /// confirmed.
    pub wipe_at: Option<BootTime>,
    /// Whether its key is another one than before: its answers are not about this key.
    pub replaced: bool,
    /// The lowest version of its key that still unwraps; 0 when it is not known.
    pub min_version: u32,
}

/// Whether the cached keys of one key version may be used, from the health of all key services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Eligibility {
    /// The last successful answer of a key service that has this version.
    pub contact: Option<BootTime>,
    /// Set when every key service that may have this version refuses: no key is used any more, and from this time on
    /// they are wiped.
    pub wipe_at: Option<BootTime>,
    /// Every key service that may have this version has another key now.
    pub replaced: bool,
    /// Every key service that may have this version has a higher minimum version.
    pub below_min_version: bool,
}

impl Eligibility {
    /// Uses the key services that have the version. If none has it, uses those whose key has the same name: a
    /// service may no longer show the version, or the key was replaced. One service that still unwraps is enough to
    /// keep the keys.
    pub(super) fn of(wrapping_key: &WrappingKey, services: &[ServiceHealth]) -> Self {
        let same_name = || services.iter().filter(|service| service.scope == wrapping_key.scope);
        let has_version = |service: &&ServiceHealth| {
            service.versions.get(wrapping_key.version) == Some(wrapping_key.created)
        };
        let with_version: Vec<&ServiceHealth> = same_name().filter(has_version).collect();
        let relevant = if with_version.is_empty() { same_name().collect() } else { with_version.clone() };
        // A key service that was not read since the start may hold another key: its answers do not count.
        let good = with_version.iter().filter(|service| service.wipe_at.is_none());
        // `None` is less than any time: one service that does not refuse is enough.
        let wipe_at = relevant.iter().map(|service| service.wipe_at);
        Self {
            contact: good.filter_map(|service| service.contact).max(),
            wipe_at: wipe_at.clone().min().flatten().and_then(|_| wipe_at.max().flatten()),
            replaced: !relevant.is_empty()
                && relevant.iter().all(|service| {
                    service.replaced || (!service.versions.is_empty() && !has_version(service))
                }),
            below_min_version: !relevant.is_empty()
                && relevant.iter().all(|service| wrapping_key.version < service.min_version),
        }
    }
}
