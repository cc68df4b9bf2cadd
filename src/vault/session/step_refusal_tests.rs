//! Tests of the rules for tokens that the server refuses, and a test of all rules with random events.

use std::time::Duration;

use super::state::{EARLY, Effect, Event, Files, Refusal, Renewal, Report, Stage};
use super::step_case::{Case, HOUR, SECOND, answers, begins_login, error, looks_up};
use crate::key_service::ErrorKind;
use crate::secret::Fingerprint;

#[test]
fn tokens_that_end_early_delay_the_next_login() {
    let mut case = Case::with_token(HOUR);
    let mut delays = Vec::new();
    for _ in 0..12 {
        let generation = case.generation();
        case.send(Event::Accepted { generation, path: "transit/encrypt/key".into() });
        assert!(looks_up(&case.refuse("transit/encrypt/key")));
        assert!(!begins_login(&case.looked_up(false)), "not at once");
        let Stage::Delayed(until) = case.state().logins.stage else { panic!("delayed") };
        delays.push(until - case.now);
        case.now = until;
        assert!(begins_login(&case.send(Event::Tick)));
        assert_eq!(answers(&case.end_login(HOUR)), [Ok(generation + 1)]);
    }
    assert_eq!(delays[..3], [200, 400, 800].map(Duration::from_millis));
    assert_eq!(delays[11], SECOND * 60);
    // One that lasted: the next login is not delayed, and the delays start again.
    case.after(EARLY);
    let generation = case.generation();
    case.send(Event::Accepted { generation, path: String::new() });
    case.refuse("transit/encrypt/key");
    assert!(begins_login(&case.looked_up(false)));
    assert_eq!(case.state().logins.delays, 0);
}

#[test]
fn a_dead_token_is_replaced_and_its_callers_get_the_new_one() {
    let mut case = Case::with_token(HOUR);
    case.send(Event::Accepted { generation: 1, path: "transit/keys/key".into() });
    case.after(EARLY);
    assert!(looks_up(&case.refuse("transit/keys/key")));
    let effects = case.looked_up(false);
    assert!(begins_login(&effects) && answers(&effects).is_empty(), "{effects:?}");
    assert!(matches!(effects[0], Effect::Report(Report::TokenDead)));
    assert_eq!(answers(&case.end_login(HOUR)), [Ok(2)]);
    // A late refusal of the old token.
    let waiter = case.waiter();
    let late = Refusal { waiter, generation: 1, path: "transit/keys/key".into(), dead: false, at: case.now };
    assert_eq!(answers(&case.send(Event::Refused(late))), [Ok(2)]);
}

/// A login in advance, and its token is revoked before anybody uses it.
#[test]
fn a_token_that_was_unused_for_a_while_may_be_dead() {
    let mut case = Case::with_token(HOUR);
    case.after(SECOND * 50);
    assert!(looks_up(&case.refuse("transit/keys/key")));
    assert!(answers(&case.looked_up(false)).is_empty(), "a login follows");
    case.now += SECOND;
    assert!(begins_login(&case.send(Event::Tick)));
    assert_eq!(answers(&case.end_login(HOUR)), [Ok(2)]);
    // A new login gets the same: it is the policy.
    case.refuse("transit/keys/key");
    assert_eq!(answers(&case.looked_up(false)), [Ok(0)]);
    case.after(SECOND * 3);
    assert_eq!(answers(&case.refuse("transit/keys/key")), [Ok(0)], "and stays the policy for a while");
}

#[test]
fn refusals_at_the_same_time_share_one_lookup() {
    let mut case = Case::with_token(HOUR);
    assert!(looks_up(&case.refuse("a")));
    assert!(case.refuse("b").is_empty());
    let refused_before = case.now;
    case.now += SECOND;
    assert_eq!(answers(&case.looked_up(true)), [Ok(0); 2]);
    // Refused before the lookup ended, reported after.
    let waiter = case.waiter();
    let late = Refusal { waiter, generation: 1, path: "c".into(), dead: false, at: refused_before };
    assert_eq!(answers(&case.send(Event::Refused(late))), [Ok(0)]);
    case.now += SECOND;
    assert!(looks_up(&case.refuse("a")), "a later refusal may have another cause");
}

#[test]
fn a_lookup_of_a_replaced_token_answers_with_the_new_one() {
    let mut case = Case::with_token(HOUR);
    case.refuse("a");
    case.send(Event::FilesChecked { files: Files::Credentials, changed: true });
    case.end_login(HOUR);
    assert!(case.refuse("b").is_empty(), "this is about the new one");
    let effects = case.send(Event::LookupEnded { generation: 1, valid: Ok(false) });
    assert!(answers(&effects) == [Ok(2)] && looks_up(&effects), "{effects:?}");
    assert_eq!(answers(&case.looked_up(true)), [Ok(0)]);
}

#[test]
fn a_lookup_that_fails_is_the_answer_and_discards_no_token() {
    let mut case = Case::with_token(HOUR);
    for (kind, expected) in [
        (ErrorKind::Unreachable, Err(ErrorKind::Unreachable)),
        // Held back by the budget: the refusal is the answer.
        (ErrorKind::HeldBack, Ok(0)),
    ] {
        assert!(looks_up(&case.refuse("a")));
        let effects = case.send(Event::LookupEnded { generation: 1, valid: Err(error(kind)) });
        assert_eq!(answers(&effects), [expected]);
        assert_eq!(case.generation(), 1);
    }
}

#[test]
fn two_fresh_tokens_that_were_never_accepted_are_refused_and_not_dead() {
    let mut case = Case::with_token(HOUR);
    case.log_in_after_refusal("transit/encrypt/key");
    assert!(looks_up(&case.refuse("transit/encrypt/key")));
    let effects = case.looked_up(false);
    assert!(answers(&effects) == [Ok(0)] && !begins_login(&effects), "{effects:?}");
    let effects = case.refuse("transit/encrypt/key");
    assert!(answers(&effects) == [Ok(0)] && !looks_up(&effects), "known, without a request");
    // Both may have been revoked, or the role has another policy by now: a login is tried, less often each time.
    for seconds in [4, 8, 16, 32] {
        case.after(SECOND * (seconds - 1));
        assert!(!looks_up(&case.refuse("transit/encrypt/key")), "before {seconds} s");
        case.after(SECOND);
        case.log_in_after_refusal("transit/encrypt/key");
        assert!(looks_up(&case.refuse("transit/encrypt/key")));
        assert!(!begins_login(&case.looked_up(false)), "not in a loop");
    }
    case.after(EARLY - SECOND);
    assert!(!looks_up(&case.refuse("transit/encrypt/key")));
    case.after(SECOND);
    assert!(looks_up(&case.refuse("transit/encrypt/key")));
    assert!(begins_login(&case.looked_up(false)));
}

#[test]
fn a_fresh_token_that_was_revoked_before_its_first_use_is_replaced() {
    let mut case = Case::with_token(HOUR);
    case.log_in_after_refusal("transit/encrypt/key");
    let generation = case.generation();
    case.send(Event::Accepted { generation, path: "transit/encrypt/key".into() });
    // It works, and is revoked, and so is the next one before it is used.
    case.log_in_after_refusal("transit/encrypt/key");
    case.log_in_after_refusal("transit/encrypt/key");
    assert_eq!(case.generation(), 4);
}

#[test]
fn a_refused_fresh_token_is_looked_up_again_when_its_path_works() {
    let mut case = Case::with_token(HOUR);
    case.log_in_after_refusal("transit/encrypt/key");
    case.refuse("transit/encrypt/key");
    case.looked_up(false);
    case.send(Event::Accepted { generation: 2, path: "transit/decrypt/key".into() });
    assert!(!looks_up(&case.refuse("transit/encrypt/key")), "another path says nothing about this one");
    case.send(Event::Accepted { generation: 2, path: "transit/encrypt/key".into() });
    assert!(looks_up(&case.refuse("transit/encrypt/key")));
    assert!(matches!(*case.looked_up(false), [Effect::Report(Report::TokenDead), ..]));
}

/// Whatever happens, no plan lies in the past once the state has acted: the actor cannot loop without a pause.
#[test]
fn no_event_leaves_a_plan_in_the_past() {
    let mut case = Case::new();
    for _ in 0..20_000 {
        let pick = |of: usize| (crate::retry::jitter() * of as f64) as usize;
        case.jitter = crate::retry::jitter();
        case.now += SECOND.mul_f64([0.0, 0.1, 3.0, 600.0][pick(4)] * crate::retry::jitter());
        let (waiter, generation) = (case.waiter(), case.generation() - case.generation().min(pick(2) as u64));
        let kind = [ErrorKind::Unreachable, ErrorKind::CredentialsRefused, ErrorKind::HeldBack][pick(3)];
        let files = [Files::Credentials, Files::Tls][pick(2)];
        let ttl = SECOND * [0, 1, 60, 3600][pick(4)];
        let (token, at) = (case.token(ttl), case.now);
        let state = case.state();
        let event = match pick(10) {
            0 => Event::Wanted(waiter),
            1 => Event::NewerWanted { waiter, generation },
            2 => Event::Refused(Refusal { waiter, generation, path: "p".into(), dead: false, at }),
            3 => Event::Accepted { generation, path: "p".into() },
            4 if state.checking.0 || files == Files::Tls => {
                Event::FilesChecked { files, changed: pick(9) == 0 }
            }
            5 if state.logins.stage == Stage::ReadingCredentials => {
                Event::CredentialsRead(Ok(Fingerprint::default()))
            }
            6 if matches!(state.logins.stage, Stage::Sent(_)) => Event::LoginEnded(match pick(2) {
                0 => Ok(token),
                _ => Err(error(kind)),
            }),
            7 if state.schedule.renewing => Event::RenewalEnded {
                generation,
                renewal: match pick(3) {
                    0 => Renewal::Granted { at, ttl: (!ttl.is_zero()).then_some(ttl), renewable: true },
                    1 => Renewal::Refused { at },
                    _ => Renewal::Failed(error(kind)),
                },
            },
            8 if state.checks.running.is_some() => Event::LookupEnded {
                generation,
                valid: if pick(2) == 0 { Ok(pick(2) == 0) } else { Err(error(kind)) },
            },
            _ => Event::Tick,
        };
        let shown = format!("{event:?}");
        case.send(event);
        assert!(case.state().wake_at() > case.now, "{shown}: {:?}", case.state());
    }
}
