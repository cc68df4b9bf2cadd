//! The rules of the state machine, one test each.

use std::time::Duration;

use super::*;
use crate::health::ReasonKind;
use crate::key_service::{ErrorKind, KeyScope, KeyServiceError};

const GRACE: Duration = Duration::from_secs(3600);

fn rules() -> Rules {
    Rules {
        scope: KeyScope { namespace: String::new(), mount: "transit".into(), key: "k".into() },
        epoch: 0,
        grace: Grace::For(GRACE),
        expect_created: None,
        fips: false,
    }
}

fn at(seconds: u64) -> BootTime {
    BootTime(Duration::from_secs(seconds))
}

fn key(versions: &[(u32, i64)]) -> Event {
    let versions: KeyVersions = versions.iter().copied().collect();
    let latest = versions.iter().next_back().unwrap().0;
    Event::Described(KeyDescription {
        latest,
        min_encryption: 0,
        min_decryption: 1,
        versions,
        key_type: "aes256-gcm96".into(),
        warnings: Vec::new(),
        cluster_id: None,
    })
}

fn judged(verdict: fn(KeyServiceError) -> Verdict, kind: ErrorKind) -> Event {
    let verdict = verdict(KeyServiceError::new(kind, "it failed", "repair it"));
    let lost = matches!(verdict, Verdict::Away(_));
    Event::Judged { verdict, worked: false, lost }
}

fn worked() -> Event {
    Event::Judged { verdict: Verdict::Good, worked: true, lost: false }
}

fn run(state: State, events: Vec<Event>, now: BootTime) -> State {
    events.into_iter().fold(state, |state, event| step(state, event, now).0)
}

fn ready() -> State {
    run(State::new(rules(), None, at(0)), vec![key(&[(1, 10), (2, 20)]), worked()], at(100))
}

fn kind(state: &State) -> Option<ReasonKind> {
    state.reason.as_ref().map(|reason| reason.kind)
}

#[test]
fn a_start_is_ready_after_the_first_round_trip_only() {
    let state = State::new(rules(), None, at(0));
    assert_eq!((state.phase, kind(&state)), (Phase::Starting, Some(ReasonKind::NoContact)));
    let state = run(state, vec![judged(Verdict::Away, ErrorKind::Unreachable)], at(9000));
    assert_eq!(state.phase, Phase::Starting, "without an identity there is no grace to count");
    let state = run(state, vec![key(&[(1, 10)])], at(9001));
    assert_ne!(state.phase, Phase::Ready, "a key that was read is not verified yet");
    let state = run(state, vec![worked()], at(9002));
    assert_eq!((state.phase, kind(&state), state.since), (Phase::Ready, None, at(9002)));
}

#[test]
fn an_outage_is_degraded_until_the_grace_counted_from_the_last_contact_ends() {
    let state = run(ready(), vec![judged(Verdict::Away, ErrorKind::Unreachable)], at(200));
    assert_eq!((state.phase, state.grace_end), (Phase::Degraded, Some(at(100 + 3600))));
    let state = run(state, vec![judged(Verdict::Away, ErrorKind::Sealed), Event::Tick], at(3699));
    assert_eq!(
        (state.phase, kind(&state), state.since),
        (Phase::Degraded, Some(ReasonKind::Sealed), at(200))
    );
    let state = run(state, vec![Event::Tick], at(3700));
    assert_eq!((state.phase, state.since), (Phase::Failed, at(3700)));
    assert_eq!(state.announce, Announce::Unhealthy, "Status answers with a text, not an error");
    let state = run(state, vec![worked()], at(3800));
    assert_eq!((state.phase, kind(&state)), (Phase::Ready, None));
}

#[test]
fn a_grace_of_zero_and_an_unlimited_grace() {
    let mut none = rules();
    none.grace = Grace::For(Duration::ZERO);
    let start = vec![key(&[(1, 10)]), worked(), judged(Verdict::Away, ErrorKind::Unreachable)];
    assert_eq!(run(State::new(none, None, at(0)), start.clone(), at(1)).phase, Phase::Failed);
    let mut unlimited = rules();
    unlimited.grace = Grace::Unlimited;
    let state = run(State::new(unlimited, None, at(0)), start, at(1));
    let state = run(state, vec![Event::Tick], at(u64::from(u32::MAX)));
    assert_eq!((state.phase, state.grace_end), (Phase::Degraded, None));
}

#[test]
fn the_fips_build_refuses_a_key_type_that_is_not_approved() {
    let chacha = || {
        let Event::Described(description) = key(&[(1, 10)]) else { unreachable!() };
        Event::Described(KeyDescription { key_type: "chacha20-poly1305".into(), ..description })
    };
    let fips = Rules { fips: true, ..rules() };
    let state = run(State::new(fips.clone(), None, at(0)), vec![chacha(), worked()], at(1));
    assert_eq!((state.phase, kind(&state)), (Phase::Failed, Some(ReasonKind::KeyNotApproved)));
    assert_eq!(state.announce, Announce::Refused, "Status answers with an error, so writes stop");
    assert!(ReasonKind::KeyNotApproved.forbids_wrapping() && !ReasonKind::KeyNotApproved.is_mismatch());
    assert_eq!(state.wipe_at(), None, "it is no refusal: the keys in memory stay, and Decrypt works");
    assert_eq!(run(state, vec![judged(Verdict::Away, ErrorKind::Sealed)], at(9)).phase, Phase::Failed);
    let other = run(State::new(rules(), None, at(0)), vec![chacha(), worked()], at(1));
    assert_eq!(other.phase, Phase::Ready, "another build wraps with it");
    let approved = run(State::new(fips, None, at(0)), vec![key(&[(1, 10)]), worked()], at(1));
    assert_eq!(approved.phase, Phase::Ready);
}

#[test]
fn a_refusal_fails_only_when_it_is_confirmed() {
    let state = run(ready(), vec![judged(Verdict::Suspected, ErrorKind::Denied)], at(200));
    assert_eq!((state.phase, kind(&state)), (Phase::Degraded, Some(ReasonKind::Denied)));
    let state = run(state, vec![judged(Verdict::Refused, ErrorKind::Denied)], at(205));
    assert_eq!((state.phase, kind(&state)), (Phase::Failed, Some(ReasonKind::Denied)));
    assert_eq!(run(state, vec![worked()], at(300)).phase, Phase::Ready);
}

#[test]
fn losing_only_the_right_to_read_the_key_is_degraded_without_an_end() {
    let state = run(ready(), vec![judged(Verdict::Unreadable, ErrorKind::Denied)], at(200));
    assert_eq!((state.phase, kind(&state)), (Phase::Degraded, Some(ReasonKind::KeyUnreadable)));
    assert_eq!(run(state, vec![Event::Tick], at(1_000_000)).phase, Phase::Degraded);
}

/// A policy that a tool applies anew looks like a refusal for seconds, and a wipe cannot be undone.
#[test]
fn keys_are_wiped_30_seconds_after_the_confirmation_and_90_after_the_last_contact() {
    let refused = || judged(Verdict::Refused, ErrorKind::Denied);
    let state = run(ready(), vec![refused()], at(110));
    assert_eq!(state.wipe_at(), Some(at(140)));
    assert_eq!(run(state.clone(), vec![refused()], at(130)).wipe_at(), Some(at(140)), "counted once");
    assert_eq!(run(state, vec![worked()], at(131)).wipe_at(), None);
    assert_eq!(
        run(ready(), vec![refused()], at(170)).wipe_at(),
        Some(at(190)),
        "the last contact was at 100"
    );
    assert_eq!(run(ready(), vec![refused()], at(500)).wipe_at(), Some(at(500)));
    let unusable = run(ready(), vec![judged(Verdict::Refused, ErrorKind::KeyUnusable)], at(110));
    assert_eq!((unusable.phase, unusable.wipe_at()), (Phase::Failed, None), "no refusal of us");
}

#[test]
fn a_rotation_is_followed_and_old_versions_are_remembered() {
    let state = run(ready(), vec![key(&[(1, 10), (2, 20), (3, 30)])], at(200));
    let known = state.key.clone().unwrap();
    assert_eq!((state.phase, known.version), (Phase::Ready, 3));
    // min_decryption_version was raised: the service shows only the newest.
    let state = run(state, vec![key(&[(3, 30)])], at(300));
    let known = state.key.unwrap();
    assert_eq!(known.versions.iter().map(|(version, _)| version).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_replaced_key_fails_at_once_until_it_is_accepted() {
    let state = run(ready(), vec![key(&[(1, 77)]), worked()], at(200));
    assert_eq!((state.phase, kind(&state)), (Phase::Failed, Some(ReasonKind::KeyReplaced)));
    assert_eq!(state.key.as_ref().unwrap().version, 2, "the old identity is kept");
    let restored = run(state.clone(), vec![key(&[(1, 10), (2, 20)])], at(300));
    assert_eq!(restored.phase, Phase::Ready, "a restored key needs no command");
    let accepted = run(state, vec![Event::Accept], at(300));
    let known = accepted.key.unwrap();
    assert_eq!((accepted.phase, known.version, known.created), (Phase::Ready, 1, 77));
    assert_eq!(known.versions.iter().count(), 1, "versions of the key that was given up are forgotten");
}

/// A server does not list versions below the minimum for decryption. When none is left that the agent knows, nothing shows
/// that the old key is back.
#[test]
fn versions_that_are_not_listed_do_not_make_another_key_the_old_one() {
    let replaced = run(ready(), vec![key(&[(1, 10), (2, 21)])], at(200));
    let hidden = run(replaced, vec![key(&[(3, 30)])], at(260));
    assert_eq!(kind(&hidden), Some(ReasonKind::KeyReplaced));
    assert_eq!(hidden.key.as_ref().unwrap().version, 2);
    let back = run(hidden.clone(), vec![key(&[(2, 20), (3, 30)])], at(320));
    assert_eq!((kind(&back), back.key.unwrap().version), (None, 3));
    let accepted = run(hidden, vec![Event::Accept], at(320));
    assert_eq!((kind(&accepted), accepted.key.unwrap().version), (None, 3));
}

#[test]
fn a_configured_creation_time_accepts_a_replaced_key() {
    let mut expecting = rules();
    expecting.expect_created = Some(77);
    let events = vec![key(&[(1, 10)]), worked(), key(&[(1, 77)])];
    let state = run(State::new(expecting, None, at(0)), events, at(1));
    assert_eq!((state.phase, state.key.unwrap().created), (Phase::Ready, 77));
}

#[test]
fn a_lower_version_is_a_rollback_at_the_third_observation() {
    let lower = || key(&[(1, 10)]);
    let (state, effects) = step(ready(), lower(), at(200));
    assert_eq!(state.phase, Phase::Ready);
    assert!(effects.contains(&Effect::ReadAgainSoon));
    let quick = run(state.clone(), vec![lower(), lower(), lower()], at(201));
    assert_eq!(quick.phase, Phase::Ready, "reads in quick succession count as one observation");
    let state = run(state, vec![lower()], at(205));
    assert_eq!(state.phase, Phase::Ready);
    let caught_up = run(state.clone(), vec![key(&[(1, 10), (2, 20)]), lower()], at(210));
    assert_eq!(
        run(caught_up, vec![lower()], at(215)).phase,
        Phase::Ready,
        "three observations in a row, not in total"
    );
    let state = run(state, vec![lower()], at(210));
    assert_eq!((state.phase, kind(&state)), (Phase::Failed, Some(ReasonKind::KeyRolledBack)));
    assert_eq!(run(state, vec![Event::Accept], at(220)).key.unwrap().version, 1);
}

#[test]
fn the_key_is_stale_after_a_restart_and_after_an_outage() {
    let known = ready().key.unwrap();
    let resumed = State::new(rules(), Some((known, Some(at(100)))), at(200));
    assert!(resumed.key_stale);
    assert!(!run(resumed.clone(), vec![key(&[(1, 10), (2, 20)])], at(201)).key_stale);
    assert!(
        !run(resumed, vec![judged(Verdict::Unreadable, ErrorKind::Denied)], at(201)).key_stale,
        "otherwise no write would ever work"
    );
    let outage = run(ready(), vec![judged(Verdict::Away, ErrorKind::Unreachable)], at(200));
    assert!(outage.key_stale && run(outage.clone(), vec![worked()], at(201)).key_stale);
    // The service answers again: a read that works comes before the round trip, while the verdict is the same.
    let away = KeyServiceError::new(ErrorKind::Unreachable, "it failed", "repair it");
    let still_away = Event::Judged { verdict: Verdict::Away(away), worked: false, lost: false };
    let back = run(outage, vec![key(&[(1, 10), (2, 20)]), still_away, worked()], at(202));
    assert!(!back.key_stale && back.phase == Phase::Ready);
}

#[test]
fn reads_do_not_extend_the_grace_and_an_unconfirmed_refusal_does_not_change_its_end() {
    let broken = vec![judged(Verdict::Away, ErrorKind::Internal), key(&[(1, 10), (2, 20)])];
    let state = run(ready(), broken.clone(), at(3000));
    assert_eq!((state.phase, state.grace_end), (Phase::Degraded, Some(at(3700))));
    let state = run(state, broken, at(3701));
    assert_eq!((state.phase, state.announce), (Phase::Failed, Announce::Unhealthy));
    let state = run(state, vec![judged(Verdict::Suspected, ErrorKind::Denied)], at(3702));
    assert_eq!((state.phase, state.announce), (Phase::Failed, Announce::Unhealthy));
}

#[test]
fn a_restart_continues_the_old_grace_and_compares_with_the_saved_identity() {
    let known = ready().key.unwrap();
    let resumed = State::new(rules(), Some((known.clone(), Some(at(100)))), at(2000));
    assert_eq!((resumed.phase, resumed.grace_end), (Phase::Degraded, Some(at(3700))));
    assert_eq!(resumed.key.as_ref().unwrap().key_id, known.key_id);
    let late = State::new(rules(), Some((known.clone(), Some(at(100)))), at(4000));
    assert_eq!(late.phase, Phase::Failed, "a restart does not extend the grace");
    let replaced = run(resumed, vec![key(&[(1, 11), (2, 20)])], at(2001));
    assert_eq!(kind(&replaced), Some(ReasonKind::KeyReplaced));
    let other_boot = State::new(rules(), Some((known, None)), at(50));
    assert_eq!(other_boot.phase, Phase::Starting, "a time of another boot is ignored");
}

#[test]
fn a_stopping_agent_keeps_its_last_reason() {
    let degraded = run(ready(), vec![judged(Verdict::Away, ErrorKind::Unreachable)], at(200));
    let state = run(degraded, vec![Event::Stop, worked(), Event::Tick], at(300));
    assert_eq!((state.phase, kind(&state)), (Phase::Stopping, Some(ReasonKind::Unreachable)));
}
