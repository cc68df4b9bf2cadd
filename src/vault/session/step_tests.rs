//! Tests of the rules for logins and renewals.

use std::time::Duration;

use super::state::{Effect, Event, Files, Renewal, Report, Stage, Waiter};
use super::step_case::{Case, HOUR, SECOND, answers, begins_login, error, renews};
use crate::key_service::ErrorKind;
use crate::secret::{Fingerprint, Secret};
use crate::vault::token::Token;

#[test]
fn a_token_is_renewed_at_two_thirds_of_its_lease_with_jitter() {
    let mut case = Case::with_token(HOUR);
    assert!(!renews(&case.after(HOUR * 2 / 3 - SECOND)));
    assert!(renews(&case.after(SECOND)));
    assert!(!renews(&case.after(SECOND)), "one renewal at a time");
    let granted = Renewal::Granted { at: case.now, ttl: Some(HOUR), renewable: true };
    case.jitter = 0.9;
    case.send(Event::RenewalEnded { generation: 1, renewal: granted });
    assert_eq!(case.generation(), 1, "it is the same token");
    assert!(!renews(&case.after(HOUR * 2 / 3 + SECOND)), "the jitter is drawn once for each lease");
    assert!(renews(&case.after(HOUR / 30)));
}

#[test]
fn a_token_without_expiry_is_kept() {
    let mut case = Case::with_token(Duration::ZERO);
    assert!(case.after(HOUR * 10_000).is_empty());
}

#[test]
fn near_its_maximum_lifetime_a_token_is_replaced_while_it_still_works() {
    let mut case = Case::with_token(HOUR);
    assert!(renews(&case.after(HOUR * 2 / 3)));
    let granted = Renewal::Granted { at: case.now, ttl: Some(HOUR / 3), renewable: true };
    assert!(begins_login(&case.send(Event::RenewalEnded { generation: 1, renewal: granted })));
    assert_eq!(answers(&case.want()), [Ok(1)], "callers do not wait for the login");
    case.end_login(HOUR);
    assert_eq!(answers(&case.want()), [Ok(2)]);
}

#[test]
fn in_an_outage_callers_wait_for_a_login_that_is_sent_after_a_pause() {
    let mut case = Case::new();
    let mut logins = 0;
    for _ in 0..100 {
        let mut effects = case.want();
        effects.extend(case.after(SECOND / 10));
        // What the actor would do, until nothing more follows.
        while let Some(effect) = effects.pop() {
            effects.extend(match effect {
                Effect::CheckFiles(files) => case.send(Event::FilesChecked { files, changed: false }),
                Effect::ReadCredentials => {
                    let secret = Secret::new("right".into());
                    case.send(Event::CredentialsRead(Ok(secret.fingerprint())))
                }
                Effect::LogIn => {
                    logins += 1;
                    case.send(Event::LoginEnded(Err(error(ErrorKind::Unreachable))))
                }
                _ => Vec::new(),
            });
        }
    }
    assert!((3..=5).contains(&logins), "{logins} in ten seconds");
}

#[test]
fn a_login_that_an_outage_delayed_follows_it_at_once_for_a_caller_only() {
    for waits in [true, false] {
        let mut case = Case::new();
        case.want();
        case.send(Event::FilesChecked { files: Files::Credentials, changed: false });
        case.send(Event::CredentialsRead(Ok(Secret::new("right".into()).fingerprint())));
        case.send(Event::LoginEnded(Err(error(ErrorKind::Unreachable))));
        assert!(!begins_login(&case.want()), "after a pause");
        if !waits {
            case.state.as_mut().unwrap().retain_waiters(|_| false);
        }
        assert_eq!(begins_login(&case.send(Event::CameBack)), waits);
        assert!(waits || begins_login(&case.want()), "the next caller has it at once");
    }
}

#[test]
fn a_refused_renewal_is_followed_by_a_login() {
    let mut case = Case::with_token(HOUR);
    assert!(renews(&case.after(HOUR * 2 / 3)));
    let refused = Renewal::Refused { at: case.now };
    // The lease that is left is short: a login is due, while the token still works.
    assert!(begins_login(&case.send(Event::RenewalEnded { generation: 1, renewal: refused })));
    assert!(case.generation() == 1 && case.state().problem.is_none());
    assert_eq!(answers(&case.want()), [Ok(1)]);
}

#[test]
fn a_failed_renewal_is_retried_with_backoff_and_before_the_token_ends() {
    let mut case = Case::with_token(HOUR);
    let mut delays = Vec::new();
    case.now += HOUR * 2 / 3;
    while renews(&case.send(Event::Tick)) {
        let renewal = Renewal::Failed(error(ErrorKind::Unreachable));
        case.send(Event::RenewalEnded { generation: 1, renewal });
        assert!(case.state().problem.is_some());
        let due = case.state().schedule.due.unwrap();
        delays.push(due - case.now);
        case.now = due;
    }
    assert_eq!(delays[..6], [1, 2, 4, 8, 16, 30].map(Duration::from_secs));
    assert!(case.state().token.as_ref().unwrap().lease.nearly_over(case.now), "then it logs in");
    assert_ne!(case.state().logins.stage, Stage::Idle);
    // With little time left, the pause is a part of it.
    let mut case = Case::with_token(SECOND * 30);
    case.state.as_mut().unwrap().schedule.failures = 5;
    assert!(renews(&case.after(SECOND * 20)));
    let renewal = Renewal::Failed(error(ErrorKind::Unreachable));
    case.send(Event::RenewalEnded { generation: 1, renewal });
    assert_eq!(case.state().schedule.due, Some(case.now + SECOND * 10 / 3));
}

#[test]
fn callers_share_one_login() {
    let mut case = Case::new();
    assert!(begins_login(&case.want()));
    assert!(case.want().is_empty());
    case.send_credentials("right");
    assert!(case.want().is_empty());
    let token = case.token(HOUR);
    assert_eq!(answers(&case.send(Event::LoginEnded(Ok(token)))), [Ok(1); 3]);
}

#[test]
fn callers_who_wait_get_the_error_of_the_login_and_the_next_caller_starts_another() {
    let mut case = Case::new();
    case.want();
    case.want();
    case.send_credentials("right");
    let effects = case.send(Event::LoginEnded(Err(error(ErrorKind::Unreachable))));
    assert_eq!(answers(&effects), [Err(ErrorKind::Unreachable); 2]);
    assert!(case.after(HOUR).is_empty(), "without a token, only a caller starts a login");
    assert!(begins_login(&case.want()));
}

#[test]
fn a_failed_replacement_keeps_the_old_token_and_is_retried() {
    let mut case = Case::with_token(HOUR);
    let waiter = case.waiter();
    assert!(begins_login(&case.send(Event::NewerWanted { waiter, generation: 1 })));
    case.send_credentials("right");
    let effects = case.send(Event::LoginEnded(Err(error(ErrorKind::Unreachable))));
    assert_eq!(answers(&effects), [Ok(1)], "the caller gets the old one");
    assert!(case.state().problem.is_some());
    assert_eq!(case.state().schedule.due, Some(case.now + SECOND));
}

#[test]
fn a_caller_who_wants_a_newer_token_causes_a_login_although_one_is_held() {
    let mut case = Case::with_token(HOUR);
    let (one, other) = (case.waiter(), case.waiter());
    assert!(begins_login(&case.send(Event::NewerWanted { waiter: one, generation: 1 })));
    assert_eq!(answers(&case.end_login(HOUR)), [Ok(2)]);
    let effects = case.send(Event::NewerWanted { waiter: other, generation: 1 });
    assert!(answers(&effects) == [Ok(2)] && !begins_login(&effects), "there is a newer one already");
}

#[test]
fn refused_credentials_are_not_sent_again_for_15_minutes() {
    let mut case = Case::new();
    case.want();
    assert!(matches!(*case.send_credentials("wrong"), [Effect::LogIn]));
    let refused = error(ErrorKind::CredentialsRefused);
    case.send(Event::LoginEnded(Err(refused)));
    assert!(case.state().status().refused.is_some());
    case.now += SECOND * 60 * 13;
    case.want();
    assert_eq!(answers(&case.send_credentials("wrong")), [Err(ErrorKind::CredentialsRefused)], "not sent");
    case.now += SECOND * 60;
    case.want();
    assert!(matches!(*case.send_credentials("wrong"), [Effect::LogIn]), "13.5 minutes, with the jitter");
}

#[test]
fn changed_credentials_are_sent_at_once() {
    let mut case = Case::new();
    case.want();
    case.send_credentials("wrong");
    case.send(Event::LoginEnded(Err(error(ErrorKind::CredentialsRefused))));
    case.now += SECOND * 2;
    assert!(matches!(*case.send(Event::Tick), [Effect::CheckFiles(_), Effect::CheckFiles(_)]));
    let changed = Event::FilesChecked { files: Files::Credentials, changed: true };
    assert!(begins_login(&case.send(changed)), "without a caller, too");
    case.end_login(HOUR);
    assert_eq!(case.state().status().refused, None);
}

#[test]
fn an_unreadable_credential_is_not_a_refused_one() {
    let mut case = Case::new();
    case.want();
    case.send(Event::FilesChecked { files: Files::Credentials, changed: false });
    let unreadable = Err(error(ErrorKind::CredentialsUnreadable));
    let effects = case.send(Event::CredentialsRead(unreadable));
    assert_eq!(answers(&effects), [Err(ErrorKind::CredentialsUnreadable)]);
    case.want();
    assert!(matches!(*case.send_credentials("right"), [Effect::LogIn]));
}

#[test]
fn a_changed_file_causes_one_login() {
    let changed = |files| Event::FilesChecked { files, changed: true };
    for files in [Files::Credentials, Files::Tls] {
        let mut case = Case::with_token(HOUR);
        assert!(begins_login(&case.send(changed(files))), "{files:?}");
        case.end_login(HOUR);
        assert_eq!(case.generation(), 2);
    }
    // The check of a login finds the change: the login uses what it found.
    let mut case = Case::new();
    case.want();
    assert!(matches!(*case.send(changed(Files::Credentials)), [Effect::ReadCredentials]));
    case.send(Event::CredentialsRead(Ok(Fingerprint::default())));
    // This change comes after the login has read its credentials.
    assert!(case.send(changed(Files::Credentials)).is_empty());
    let token = case.token(HOUR);
    let effects = case.send(Event::LoginEnded(Ok(token)));
    assert!(answers(&effects) == [Ok(1)] && begins_login(&effects), "{effects:?}");
}

#[test]
fn a_hung_check_of_the_tls_files_does_not_delay_a_login() {
    let mut case = Case::new();
    case.now += SECOND * 2;
    assert_eq!(case.send(Event::Tick).len(), 2);
    case.send(Event::FilesChecked { files: Files::Credentials, changed: false });
    // The other check does not end.
    assert!(begins_login(&case.want()));
    case.end_login(HOUR);
    case.now += SECOND * 2;
    assert_eq!(case.send(Event::Tick).len(), 1, "and it is not started a second time");
}

#[test]
fn a_token_with_limited_uses_is_replaced_when_a_fifth_is_left() {
    let mut case = Case::new();
    case.want();
    case.send_credentials("right");
    let token = Token { num_uses: 20, ..case.token(HOUR) };
    case.send(Event::LoginEnded(Ok(token)));
    for _ in 0..15 {
        assert!(case.send(Event::Used { generation: 1 }).is_empty());
    }
    assert!(case.send(Event::Used { generation: 0 }).is_empty(), "another token");
    assert!(begins_login(&case.send(Event::Used { generation: 1 })));
    assert!(case.send(Event::Used { generation: 1 }).is_empty());
    case.end_login(HOUR);
    assert_eq!(case.state().uses, 0);
}

#[test]
fn a_static_token_that_cannot_be_renewed_is_reported_once_and_replaced_with_its_file() {
    let mut case = Case::new();
    case.state.as_mut().unwrap().logs_in = false;
    case.want();
    case.send_credentials("right");
    let mut token = case.token(HOUR);
    token.lease.renewable = false;
    case.send(Event::LoginEnded(Ok(token)));
    let effects = case.after(HOUR * 2 / 3);
    assert!(matches!(*effects, [Effect::Report(Report::CannotRenew)]), "{effects:?}");
    assert!(case.state().problem.is_some() && case.after(HOUR / 4).is_empty());
    assert!(begins_login(&case.send(Event::FilesChecked { files: Files::Credentials, changed: true })));
    case.end_login(HOUR);
    assert!(case.generation() == 2 && case.state().problem.is_none());
}

#[test]
fn a_renewal_of_a_token_that_is_no_longer_held_changes_nothing() {
    let mut case = Case::with_token(HOUR);
    assert!(renews(&case.after(HOUR * 2 / 3)));
    assert!(begins_login(&case.send(Event::FilesChecked { files: Files::Credentials, changed: true })));
    case.end_login(HOUR);
    let due = case.state().schedule.due;
    let renewal = Renewal::Failed(error(ErrorKind::Unreachable));
    case.send(Event::RenewalEnded { generation: 1, renewal });
    assert!(case.state().schedule.due == due && case.state().problem.is_none());
}

#[test]
fn a_renewal_does_not_hide_that_logins_fail() {
    let mut case = Case::with_token(HOUR);
    case.send(Event::FilesChecked { files: Files::Credentials, changed: true });
    case.send_credentials("wrong");
    case.send(Event::LoginEnded(Err(error(ErrorKind::CredentialsRefused))));
    assert!(renews(&case.after(SECOND)) || renews(&case.after(HOUR)), "the old token is kept");
    let renewal = Renewal::Granted { at: case.now, ttl: Some(HOUR), renewable: true };
    case.send(Event::RenewalEnded { generation: 1, renewal });
    assert!(case.state().problem.is_some());
}

#[test]
fn callers_who_have_gone_are_forgotten() {
    let mut case = Case::new();
    case.want();
    case.want();
    case.state.as_mut().unwrap().retain_waiters(|waiter| waiter == Waiter(2));
    assert_eq!(answers(&case.end_login(HOUR)), [Ok(1)]);
}

#[test]
fn a_locked_login_is_tried_each_minute_and_the_first_refusal_restores_the_15_minutes() {
    let mut case = Case::new();
    let pause = SECOND * 60;
    let refused = |case: &mut Case, kind| {
        case.want();
        assert!(matches!(*case.send_credentials("right"), [Effect::LogIn]));
        case.send(Event::LoginEnded(Err(error(kind).with_retry_after(Some(pause)))));
    };
    for _ in 0..15 {
        refused(&mut case, ErrorKind::LockedOut);
        assert!(case.state().status().refused.is_none(), "they may be right");
        // 54 s without jitter, 66 s with the most: local KEKs are wiped 90 s after a refusal that comes to light.
        case.now += SECOND * 53;
        case.want();
        let answered = answers(&case.send_credentials("right"));
        assert_eq!(answered, [Err(ErrorKind::LockedOut)], "not sent, and nobody waits");
        case.now += SECOND;
    }
    refused(&mut case, ErrorKind::CredentialsRefused);
    case.now += SECOND * 60 * 13;
    case.want();
    assert_eq!(answers(&case.send_credentials("right")), [Err(ErrorKind::CredentialsRefused)], "not sent");
}

#[test]
fn a_renewal_of_a_token_that_is_dead_is_followed_by_a_login_at_once() {
    let mut case = Case::with_token(HOUR);
    assert!(renews(&case.after(HOUR * 2 / 3)));
    let effects = case.send(Event::RenewalEnded { generation: 1, renewal: Renewal::Dead });
    assert!(matches!(*effects, [Effect::Report(Report::TokenDead), Effect::CheckFiles(_)]), "{effects:?}");
    assert_eq!(case.generation(), 0);
    case.end_login(HOUR);
    assert_eq!(case.generation(), 2);
}
