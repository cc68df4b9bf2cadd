//! What the judge makes of the right to read the key, beside that to use it.

use super::*;

/// A login that failed says nothing of the right to read, and is over when a round trip works.
#[test]
fn only_a_policy_makes_a_key_unreadable() {
    for (kind, unreadable) in [(ErrorKind::Denied, true), (ErrorKind::CredentialsRefused, false)] {
        let mut run = Run::well(Role::Primary);
        run.machine.plan.hurry(Look::Read, run.now);
        while run.step(|look| if look == Look::Read { Err(error(kind)) } else { Ok(Seen::Good) })
            != Look::RoundTrip
        {}
        assert_eq!(matches!(run.machine.verdict(), Verdict::Unreadable(_)), unreadable, "{kind:?}");
    }
}

/// After a refusal or an outage, the right to read may be back with the others: the old answer is not shown, and the key is
/// read at once.
#[test]
fn a_refused_read_from_before_a_fault_is_tried_again_before_it_is_shown() {
    for (fault, still_refused) in [
        (ErrorKind::Denied, true),
        (ErrorKind::Denied, false),
        (ErrorKind::Unreachable, true),
        (ErrorKind::Unreachable, false),
    ] {
        let mut run = Run::well(Role::Primary);
        run.hint(Hint::Refused);
        run.until_refused(ErrorKind::Denied);
        if fault == ErrorKind::Unreachable {
            while run.fail(fault) != Look::Health {}
        }
        while run.good() != Look::RoundTrip {}
        let worked = run.now;
        assert!(matches!(run.machine.verdict(), Verdict::Good), "{:?}", run.machine);
        let read = |_| if still_refused { Err(error(ErrorKind::Denied)) } else { Ok(Seen::Good) };
        assert_eq!(run.step(read), Look::Read);
        assert!(run.now - worked <= Duration::from_secs(1), "{:?}", run.now - worked);
        let unreadable = matches!(run.machine.verdict(), Verdict::Unreadable(_));
        assert_eq!(unreadable, still_refused, "{fault:?}");
        assert!(run.pause() >= Duration::from_secs(8), "nothing more is asked: {:?}", run.machine);
    }
}

#[test]
fn the_key_is_read_while_it_may_not_be_used() {
    let mut run = Run::well(Role::Primary);
    run.hint(Hint::Refused);
    run.until_refused(ErrorKind::Denied);
    let (from, limit) = (run.looks.len(), run.now + Duration::from_secs(300));
    while run.now < limit {
        run.step(|look| if look == Look::RoundTrip { Err(error(ErrorKind::Denied)) } else { Ok(Seen::Good) });
    }
    let reads = run.looks[from..].iter().filter(|look| **look == Look::Read).count();
    assert!(
        (4..8).contains(&reads),
        "it may be replaced or rolled back meanwhile: {reads} reads in five minutes"
    );
}

#[test]
fn losing_only_the_right_to_read_the_key_is_no_refusal() {
    let mut run = Run::well(Role::Primary);
    for _ in 0..30 {
        run.step(|look| if look == Look::Read { Err(error(ErrorKind::Denied)) } else { Ok(Seen::Good) });
        assert!(!matches!(run.machine.verdict(), Verdict::Suspected(_) | Verdict::Refused(_)));
    }
    assert!(matches!(run.machine.verdict(), Verdict::Unreadable(_)));
    run.until_good();
}

/// A login that failed hid the key, which may be another one by now: it is read as soon as the service works.
#[test]
fn the_key_is_read_at_once_after_a_fault_that_hid_it() {
    for kind in [ErrorKind::CredentialsRefused, ErrorKind::LoginDenied, ErrorKind::WrongSetting] {
        let mut run = Run::well(Role::Primary);
        run.hint(Hint::Refused);
        run.until_refused(kind);
        // Long enough for a read that fails, too.
        for _ in 0..20 {
            run.step(|look| if look == Look::Health { Ok(Seen::Good) } else { Err(error(kind)) });
        }
        while run.good() != Look::RoundTrip {}
        let worked = run.now;
        assert_eq!(run.good(), Look::Read, "{kind:?}");
        assert!(run.now - worked <= Duration::from_secs(1), "{kind:?}: {:?}", run.now - worked);
    }
}

/// A read without an answer says nothing of the right to read: the old refusal is not shown for it.
#[test]
fn a_read_without_an_answer_makes_an_old_refusal_no_newer() {
    for kind in [ErrorKind::Unreachable, ErrorKind::Standby, ErrorKind::HeldBack] {
        let mut run = Run::well(Role::Primary);
        run.step(|_| Ok(Seen::Good));
        while !matches!(run.machine.verdict(), Verdict::Unreadable(_)) {
            run.step(|look| if look == Look::Read { Err(error(ErrorKind::Denied)) } else { Ok(Seen::Good) });
        }
        run.hint(Hint::NoAnswer);
        run.fail(ErrorKind::Unreachable);
        let mut read = false;
        for _ in 0..20 {
            let look = run.step(|look| match look {
                Look::Read => Err(error(kind)),
                _ => Ok(Seen::Good),
            });
            read |= look == Look::Read;
            if read {
                assert!(
                    !matches!(run.machine.verdict(), Verdict::Unreadable(_)),
                    "{kind:?}: {:?}",
                    run.machine
                );
            }
        }
        assert!(read);
    }
}
