//! Tests of the line: its form in each state, and its length in every state.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::clock::BootTime;
use crate::health::{Announce, ServiceState};
use crate::key_service::{KeyScope, KnownKey};
use crate::local_kek::LocalKekState;

/// Shortest room for the reason: with less, the line would not say what is wrong.
const LEAST_REASON: usize = 20;

fn scope(namespace: &str, key: &str) -> KeyScope {
    KeyScope { namespace: namespace.into(), mount: "transit".into(), key: key.into() }
}

fn known(scope: KeyScope, version: u32) -> KnownKey {
    let description = crate::key_service::KeyDescription::with_two_versions();
    let known =
        crate::key_service::key_id::known_key(&scope, &description, &description.versions, 0).unwrap();
    KnownKey { version, ..known }
}

fn snapshot(phase: Phase, reason: Option<Reason>) -> Snapshot {
    Snapshot {
        phase,
        since: BootTime::now(),
        reason,
        grace_end: None,
        last_contact: None,
        announce: Announce::Ok,
        key_stale: false,
        verified: true,
        primary: ServiceState {
            name: "primary".into(),
            scope: scope("", "kms-key"),
            key: Some(known(scope("", "kms-key"), 1)),
            token: None,
            addresses: Vec::new(),
            problem: None,
            ignored_namespace: None,
            last_contact: None,
            wipe_at: None,
        },
        decrypt_only: Vec::new(),
        local_keks: None,
        config: Default::default(),
    }
}

fn reason(kind: ReasonKind, text: &str) -> Reason {
    Reason { kind, text: text.into(), remedy: "the long remedy".into() }
}

fn keks(missing: usize, evicted: bool, keks: usize, max_offline_seconds: u64) -> LocalKekState {
    LocalKekState {
        ready: missing == 0 && !evicted && keks > 0,
        max_offline_seconds,
        until: None,
        keks,
        seeds: 0,
        missing,
        evicted,
        made: None,
        uses: 0,
        unwraps: 0,
        locked: true,
        held_by_systemd: true,
    }
}

#[test]
fn each_state_has_its_line() {
    let mut ready = snapshot(Phase::Ready, None);
    let since = minute(ready.since);
    assert_eq!(ready.line(), format!("ready: transit/keys/kms-key version 1, since {since}"));
    ready.local_keks = Some(keks(0, false, 1, 28_800));
    assert!(ready.line().ends_with("; ready for an outage of 8h"), "{}", ready.line());
    ready.config.problem = Some("config.toml:4: unknown key vault.adresses".into());
    assert_eq!(
        ready.line(),
        "ready; the configuration on disk is not in use: config.toml:4: unknown key vault.adresses; remedy: correct it, then run kms-plugin reload"
    );
    let text = "https://vault.example:8200 did not answer in time";
    let mut degraded = snapshot(Phase::Degraded, Some(reason(ReasonKind::Unreachable, text)));
    degraded.grace_end = Some(degraded.since);
    assert_eq!(
        degraded.line(),
        format!("degraded since {since}; {text}; Status ok until {since}; remedy: run kms-plugin check")
    );
    assert!(degraded.summary().contains(text) && !degraded.summary().contains("remedy"));
    assert!(degraded.details().ends_with("; remedy: the long remedy"));
    degraded.phase = Phase::Failed;
    assert!(degraded.line().contains("; the grace is over; remedy: "), "{}", degraded.line());
    degraded.local_keks = Some(keks(0, false, 0, 8));
    assert!(degraded.line().contains("; the local KEKs are wiped; remedy: "), "{}", degraded.line());
    let text = "login by approle at auth/approle/login: https://vault.example:8200 answered 400: invalid role or secret ID";
    let starting = snapshot(Phase::Starting, Some(reason(ReasonKind::CredentialsRefused, text)));
    assert!(starting.line().starts_with(&format!("starting since {since}; login by approle at ")));
    assert!(
        starting.line().ends_with("…; remedy: put valid credentials into their file"),
        "{}",
        starting.line()
    );
}

fn phases() -> impl Strategy<Value = Phase> {
    prop::sample::select(vec![Phase::Starting, Phase::Ready, Phase::Degraded, Phase::Failed, Phase::Stopping])
}

proptest! {
    #[test]
    fn every_line_is_short_and_ends_with_its_remedy(
        phase in phases(),
        kind in prop::option::of(prop::sample::select(ReasonKind::ALL.to_vec())),
        // Addresses and names of any length, and texts with anything in them.
        text in prop_oneof![".{0,600}", "https://[a-z.-]{1,300}:8200 [a-z ]{0,300}"],
        namespace in "[a-z/]{0,200}",
        key in "[A-Za-z0-9._-]{1,200}",
        version in 1..=u32::MAX,
        has_key in any::<bool>(),
        grace in any::<bool>(),
        local_keks in prop::option::of((any::<usize>(), any::<bool>(), 0_usize..2, 0..=365 * 86_400_u64)),
        problem in prop::option::of(".{0,300}"),
    ) {
        let mut snapshot = snapshot(phase, kind.map(|kind| reason(kind, &text)));
        snapshot.primary.key = has_key.then(|| known(scope(&namespace, &key), version));
        snapshot.grace_end = grace.then_some(snapshot.since);
        snapshot.local_keks = local_keks.map(|(missing, evicted, count, longest)| keks(missing, evicted, count, longest));
        snapshot.config.problem = problem.map(Arc::from);
        let line = snapshot.line();
        prop_assert!(line.chars().count() <= MAX_LINE, "{} characters: {line}", line.chars().count());
        prop_assert!(line.starts_with(phase.name()), "{line}");
        prop_assert!(!line.contains(char::is_control), "{line:?}");
        match kind {
            Some(kind) => {
                let remedy = format!("; remedy: {}", kind.short_remedy());
                prop_assert!(line.ends_with(&remedy), "{line}");
                let fixed = format!("{} since {}; {}{remedy}", phase.name(), minute(snapshot.since), snapshot.consequence(&reason(kind, "")));
                prop_assert!(fixed.chars().count() + LEAST_REASON <= MAX_LINE, "no room for the reason: {fixed}");
            }
            None => prop_assert!(line.ends_with(|c: char| c.is_alphanumeric()), "{line}"),
        }
    }
}
