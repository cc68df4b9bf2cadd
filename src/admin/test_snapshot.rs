//! A snapshot for tests of the admin API.

use crate::clock::BootTime;
use crate::health::{Announce, Phase, ServiceState, Snapshot};
use crate::key_service::{AddressState, KeyDescription, KeyScope, KeyWarning, TokenState, key_id};

/// An agent that is ready, with one address and one warning about its key.
pub(super) fn ready() -> Snapshot {
    let scope = KeyScope { namespace: "admin".into(), mount: "transit".into(), key: "k".into() };
    let description = KeyDescription {
        warnings: vec![KeyWarning { text: "the key may be exported".into(), remedy: "forbid it".into() }],
        cluster_id: Some("cluster".into()),
        ..KeyDescription::with_two_versions()
    };
    let now = BootTime::now();
    Snapshot {
        phase: Phase::Ready,
        since: now,
        reason: None,
        grace_end: None,
        last_contact: Some(now),
        announce: Announce::Ok,
        key_stale: false,
        verified: true,
        primary: ServiceState {
            name: "primary".into(),
            scope: scope.clone(),
            key: key_id::known_key(&scope, &description, &description.versions, 0),
            token: Some(TokenState {
                method: "approle",
                needed: true,
                held: true,
                expires: None,
                renewable: true,
                logins: 1,
                problem: None,
                refused: None,
                accepted: None,
            }),
            addresses: vec![AddressState {
                address: "https://vault:8200".into(),
                reachable: Some(true),
                reason: None,
                preferred: true,
            }],
            problem: None,
            ignored_namespace: None,
            last_contact: Some(now),
            wipe_at: None,
        },
        decrypt_only: Vec::new(),
        local_keks: None,
        config: Default::default(),
    }
}
