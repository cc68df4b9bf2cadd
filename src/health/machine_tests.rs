//! The rules of the judge, one test each.

use std::time::Duration;

use self::case::*;
use super::*;

#[test]
fn a_start_reads_the_key_and_uses_it() {
    let mut run = Run::start(Role::Primary);
    assert!(run.until_good() < Duration::from_secs(1));
    assert_eq!(run.looks, [Look::Read, Look::RoundTrip]);
    let mut other = Run::start(Role::DecryptOnly);
    other.until_good();
    assert_eq!(other.looks, [Look::Read], "nothing is wrapped there");
}

/// A first read that is refused, and granted a moment later: no loop.
#[test]
fn a_refusal_that_a_confirmation_does_not_find_is_over() {
    let mut run = Run::start(Role::Primary);
    run.fail(ErrorKind::Denied);
    assert!(matches!(run.machine.verdict(), Verdict::Suspected(_)));
    assert!(run.until_good() < Duration::from_secs(3));
    assert!(run.looks.len() <= 5, "{:?}", run.looks);
    assert!(run.pause() >= Duration::from_secs(8), "the usual intervals");
}

/// One address allows it in a confirmation, and the usual looks are refused all the same.
#[test]
fn an_address_that_allows_and_one_that_refuses_cause_no_loop() {
    let mut run = Run::well(Role::Primary);
    let started = run.now;
    while run.now - started < Duration::from_secs(600) {
        run.step(|look| match look {
            Look::Health | Look::Confirm { .. } => Ok(Seen::Good),
            _ => Err(error(ErrorKind::Denied)),
        });
    }
    assert!(run.looks.len() < 120, "{} looks in ten minutes", run.looks.len());
}

#[test]
fn a_refusal_is_believed_after_two_confirmations_five_seconds_apart() {
    let mut run = Run::well(Role::Primary);
    run.hint(Hint::Refused);
    let noticed = run.pause();
    let took = run.until_refused(ErrorKind::Denied);
    assert!(noticed + took < Duration::from_secs(10), "{noticed:?} {took:?}");
    let confirmations = run.looks.iter().filter(|look| matches!(look, Look::Confirm { wrap: true })).count();
    assert_eq!(confirmations, 2);
    assert!(run.machine.verdict().ends_use());
}

#[test]
fn a_deleted_key_is_told_as_missing_and_nothing_is_wrapped_until_it_was_read() {
    let mut run = Run::well(Role::Primary);
    run.hint(Hint::Refused);
    while !matches!(run.machine.verdict(), Verdict::Refused(_)) {
        run.step(|look| match look {
            Look::Health => Ok(Seen::Good),
            Look::Read => Err(error(ErrorKind::NotFound)),
            Look::RoundTrip => Err(error(ErrorKind::Denied)),
            Look::Confirm { wrap } => {
                assert!(!wrap, "a wrap could create the key");
                Err(error(ErrorKind::NotFound))
            }
        });
    }
    assert!(run.machine.verdict().error().unwrap().kind().is_missing_key());
    for _ in 0..20 {
        assert_ne!(run.fail(ErrorKind::NotFound), Look::RoundTrip);
    }
    while run.good() != Look::Read {}
    assert!(
        run.machine.wants_proof() && run.machine.verdict().error().is_some(),
        "there, and not yet proven"
    );
    assert_eq!(run.good(), Look::RoundTrip);
    assert!(matches!(run.machine.verdict(), Verdict::Good));
}

/// A wrap says that the key is deleted, and the key is gone altogether a moment later: the next wrap would make one.
#[test]
fn a_key_that_a_wrap_found_deleted_is_read_before_the_next_wrap() {
    let mut run = Run::well(Role::Primary);
    run.hint(Hint::Refused);
    while run.step(
        |look| if look == Look::RoundTrip { Err(error(ErrorKind::SoftDeleted)) } else { Ok(Seen::Good) },
    ) != Look::RoundTrip
    {}
    for _ in 0..20 {
        assert_ne!(run.fail(ErrorKind::NotFound), Look::RoundTrip);
    }
}

#[test]
fn a_refusal_is_looked_at_again_after_5_10_20_then_27_seconds_and_sooner_for_a_call() {
    let mut run = Run::well(Role::Primary);
    run.hint(Hint::Refused);
    run.until_refused(ErrorKind::Denied);
    let mut pauses = Vec::new();
    let mut last = run.now;
    while pauses.len() < 4 {
        let refuse = |look| if look == Look::Health { Ok(Seen::Good) } else { Err(error(ErrorKind::Denied)) };
        if run.step(refuse) == Look::RoundTrip {
            pauses.push((run.now - last).as_secs());
            last = run.now;
        }
    }
    assert_eq!(pauses, [5, 10, 20, 27]);
    run.hint(Hint::Refused);
    assert!(run.pause() <= Duration::from_secs(5));
    run.good();
    assert!(run.until_good() < Duration::from_secs(2));
}

/// The rights are back, and the key is another one by now: only a read shows that, and looks at the health do not put it
/// off.
#[test]
fn a_refusal_that_ends_at_another_key_is_followed_by_a_read_at_once() {
    let mut run = Run::well(Role::Primary);
    run.hint(Hint::Refused);
    run.until_refused(ErrorKind::Denied);
    while run.step(|look| match look {
        Look::Health => Ok(Seen::Good),
        Look::RoundTrip => Err(error(ErrorKind::VersionAhead)),
        _ => Err(error(ErrorKind::Denied)),
    }) != Look::RoundTrip
    {}
    let told = run.now;
    assert_eq!(run.good(), Look::Read);
    assert!(run.now - told <= Duration::from_secs(1), "{:?}", run.now - told);
}

#[test]
fn an_outage_does_not_end_a_refusal() {
    let mut run = Run::well(Role::Primary);
    run.hint(Hint::Refused);
    run.until_refused(ErrorKind::Denied);
    for _ in 0..50 {
        run.fail(ErrorKind::Unreachable);
        assert!(matches!(run.machine.verdict(), Verdict::Refused(_)));
    }
    assert!(run.until_good() < Duration::from_secs(5));
}

#[test]
fn an_idle_agent_sees_an_outage_within_15_seconds_and_its_end_within_2() {
    let mut run = Run::well(Role::Primary);
    let started = run.now;
    while !matches!(run.machine.verdict(), Verdict::Away(_)) {
        run.fail(ErrorKind::Unreachable);
    }
    // The look itself may take as long as its time limit.
    assert!(run.now - started < Duration::from_secs(13), "{:?}", run.now - started);
    let mut returns = Vec::new();
    for _ in 0..2400 {
        assert_eq!(run.fail(ErrorKind::Deadline), Look::Health);
        assert!(run.pause() <= Duration::from_millis(1700));
        returns.push(run.clone().until_good());
    }
    assert!(returns.iter().take(15).all(|took| *took < Duration::from_secs(2)), "after a restart of Vault");
    // After an hour, all nodes do not come at the same moment: this one has the middle of six seconds.
    let last = returns.last().unwrap().as_secs_f64();
    assert!((3.0..=4.7).contains(&last), "{last}");
}

/// Meanwhile others may ask for its health: that does not begin the time again.
#[test]
fn a_service_that_is_back_is_read_once_its_time_has_come() {
    let mut run = Run::well(Role::Primary);
    for _ in 0..200 {
        run.fail(ErrorKind::Unreachable);
    }
    assert_eq!(run.good(), Look::Health);
    let (look, due) = run.machine.next();
    assert_eq!(look, Look::Read);
    assert!(due - run.now > Duration::from_secs(2), "{:?}", due - run.now);
    let asked = run.now + Duration::from_secs(2);
    run.machine.looked(Look::Health, Ok(Seen::Good), (asked, asked), CHANCE);
    assert_eq!(run.machine.next(), (Look::Read, due));
    // A call that was served shows that nobody need wait.
    run.hint(Hint::Worked);
    assert_eq!(run.machine.next(), (Look::Read, run.now));
}

/// One right comes back, and the next look meets another fault: the refusal stands.
#[test]
fn another_fault_does_not_end_a_refusal() {
    let mut run = Run::well(Role::Primary);
    run.hint(Hint::Refused);
    run.until_refused(ErrorKind::Denied);
    for _ in 0..10 {
        run.fail(ErrorKind::VersionAhead);
        assert!(run.machine.verdict().ends_use());
    }
    run.until_good();
}

/// The health is good, and the service does not do its work: a cluster without a leader.
#[test]
fn a_service_that_is_up_and_does_not_work_is_tried_every_few_seconds() {
    let mut run = Run::well(Role::Primary);
    let started = run.now;
    run.hint(Hint::NoAnswer);
    while run.now - started < Duration::from_secs(120) {
        run.step(
            |look| if look == Look::Health { Ok(Seen::Good) } else { Err(error(ErrorKind::Unreachable)) },
        );
    }
    let asked = run.looks.iter().filter(|look| **look != Look::Health).count();
    assert!((25..=40).contains(&asked), "{asked}");
    assert!(run.pause() + run.until_good() < Duration::from_secs(6));
}

#[test]
fn retry_after_delays_neither_health_nor_confirmation_and_ends_after_30_seconds() {
    let mut run = Run::well(Role::Primary);
    run.hint(Hint::NoAnswer);
    let busy = || error(ErrorKind::Throttled).with_retry_after(Some(Duration::from_secs(3600)));
    while run.step(|look| if look == Look::Health { Ok(Seen::Good) } else { Err(busy()) }) == Look::Health {}
    let started = run.now;
    assert_eq!(run.good(), Look::Health);
    assert!(run.now - started < Duration::from_secs(3));
    let took = run.until_good();
    assert!(took > Duration::from_secs(20) && took <= Duration::from_secs(31), "{took:?}");
}

#[test]
fn a_gateway_that_blocks_the_health_is_no_outage() {
    let mut run = Run::well(Role::Primary);
    let started = run.now;
    let mut healths = 0;
    while run.now - started < Duration::from_secs(600) {
        run.step(|look| if look == Look::Health { Err(error(ErrorKind::NotVault)) } else { Ok(Seen::Good) });
        healths += usize::from(run.looks.last() == Some(&Look::Health));
        assert!(matches!(run.machine.verdict(), Verdict::Good));
    }
    assert!(healths <= 15, "{healths} in ten minutes");
    assert!(!run.machine.is_stale(run.now + Duration::from_secs(6)), "it cannot be asked");
    // An outage is seen all the same, and its end, too.
    run.hint(Hint::NoAnswer);
    run.fail(ErrorKind::Unreachable);
    assert!(matches!(run.machine.verdict(), Verdict::Away(_)));
    for _ in 0..5 {
        run.fail(ErrorKind::NotVault);
    }
    assert!(run.until_good() < Duration::from_secs(5));
}

#[test]
fn a_sealed_service_is_away_or_a_refusal_after_five_seconds_as_configured() {
    let mut run = Run::well(Role::Primary);
    run.hint(Hint::NoAnswer);
    run.fail(ErrorKind::Sealed);
    assert!(matches!(run.machine.verdict(), Verdict::Away(_)));
    let mut strict = Run::denying_when_sealed();
    strict.hint(Hint::NoAnswer);
    strict.fail(ErrorKind::Sealed);
    assert!(matches!(strict.machine.verdict(), Verdict::Suspected(_)), "it may be just starting");
    let started = strict.now;
    while !matches!(strict.machine.verdict(), Verdict::Refused(_)) {
        strict.fail(ErrorKind::Sealed);
    }
    let took = strict.now - started;
    assert!(took >= Duration::from_secs(5) && took < Duration::from_secs(7), "{took:?}");
    assert!(strict.until_good() < Duration::from_secs(4));
}

#[test]
fn a_service_that_only_unwraps_is_judged_in_the_same_way() {
    let mut run = Run::well(Role::DecryptOnly);
    while !matches!(run.machine.verdict(), Verdict::Refused(_)) {
        run.step(|look| if look == Look::Health { Ok(Seen::Good) } else { Err(error(ErrorKind::Denied)) });
        assert_ne!(run.looks.last(), Some(&Look::RoundTrip));
        assert_ne!(run.looks.last(), Some(&Look::Confirm { wrap: true }));
    }
    assert!(run.until_good() < Duration::from_secs(40));
    while !matches!(run.machine.verdict(), Verdict::Away(_)) {
        run.fail(ErrorKind::Unreachable);
    }
    assert!(run.until_good() < Duration::from_secs(4));
}

/// Reads that calls ask for, while a refusal is being confirmed, neither shorten nor restart the confirmation.
#[test]
fn reads_for_calls_do_not_disturb_a_confirmation() {
    let mut run = Run::well(Role::Primary);
    run.hint(Hint::Refused);
    run.fail(ErrorKind::Denied);
    let started = run.now;
    while !matches!(run.machine.verdict(), Verdict::Refused(_)) {
        run.fail(ErrorKind::Denied);
        for _ in 0..3 {
            run.machine.looked(Look::Read, Err(error(ErrorKind::Denied)), (run.now, run.now), CHANCE);
            run.machine.looked(Look::Read, Ok(Seen::Good), (run.now, run.now), CHANCE);
        }
        assert!(run.now - started < Duration::from_secs(20));
    }
    assert!(run.now - started >= Duration::from_secs(5));
}

#[path = "machine_case.rs"]
mod case;
#[path = "machine_exploration_tests.rs"]
mod exploration;
#[path = "machine_read_tests.rs"]
mod read;
