//! Every sequence of answers up to a length, and what must hold after each.

use super::*;

/// Every sequence of answers up to this length is tried, from the start and from a service that works. The variable
/// `KMS_JUDGE_DEPTH` sets another length: 5 takes a minute, 6 ten.
const DEPTH: usize = 4;

const ANSWERS: [Option<ErrorKind>; 9] = [
    None,
    Some(ErrorKind::Unreachable),
    Some(ErrorKind::NotVault),
    Some(ErrorKind::Sealed),
    Some(ErrorKind::Throttled),
    Some(ErrorKind::Denied),
    Some(ErrorKind::NotFound),
    Some(ErrorKind::KeyUnusable),
    Some(ErrorKind::VersionAhead),
];

/// What must hold in every state.
fn check(run: &Run) {
    // Whatever happened: once everything works, the verdict is good within ten seconds of the next look at the key.
    let mut well = run.clone();
    for _ in 0..20 {
        if well.good() != Look::Health {
            break;
        }
    }
    let unreadable = matches!(well.machine.verdict(), Verdict::Unreadable(_));
    let took = well.until_good();
    assert!(took <= Duration::from_secs(if unreadable { 30 } else { 10 }), "{took:?} to recover: {run:?}");
    // Once nothing answers, that is seen. A refusal stays one.
    let mut away = run.clone();
    let limit = away.now + Duration::from_secs(15);
    while away.now < limit && !matches!(away.machine.verdict(), Verdict::Away(_) | Verdict::Refused(_)) {
        away.fail(ErrorKind::Unreachable);
    }
    assert!(!matches!(away.machine.verdict(), Verdict::Good | Verdict::Suspected(_)), "{run:?}");
    // No fault makes a loop: two minutes of anything are a bounded number of looks, few of them are audited, and the
    // verdict is clear. That holds where the service tells its health and where a gateway answers for it.
    for kind in [ErrorKind::Denied, ErrorKind::Unreachable, ErrorKind::Throttled, ErrorKind::Sealed] {
        for health in [Ok(Seen::Good), Err(error(ErrorKind::NotVault))] {
            let mut minutes = run.clone();
            let (before, limit) = (minutes.looks.len(), minutes.now + Duration::from_secs(120));
            while minutes.now < limit && minutes.looks.len() < before + 400 {
                minutes.step(|look| if look == Look::Health { health.clone() } else { Err(error(kind)) });
            }
            let looks = &minutes.looks[before..];
            let audited = looks.iter().filter(|look| **look != Look::Health).count();
            assert!(
                looks.len() < 300 && audited < 150,
                "{kind:?}: {audited} of {} looks: {run:?}",
                looks.len()
            );
            let verdict = minutes.machine.verdict();
            let settled = !matches!(verdict, Verdict::Good | Verdict::Unknown | Verdict::Suspected(_));
            assert!(settled, "{kind:?} for two minutes: {verdict:?}: {run:?}");
        }
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} after {:?}", self.machine, self.looks)
    }
}

fn explore(run: &Run, depth: usize, states: &mut usize) {
    *states += 1;
    check(run);
    if depth == 0 {
        return;
    }
    for answer in ANSWERS {
        let mut next = run.clone();
        let refused_before = matches!(next.machine.verdict(), Verdict::Refused(_));
        match answer {
            None => next.good(),
            Some(kind) => next.fail(kind),
        };
        if refused_before && answer.is_some_and(|kind| kind != ErrorKind::NotFound) {
            assert!(
                matches!(next.machine.verdict(), Verdict::Refused(_)),
                "only success ends a refusal: {next:?}"
            );
        }
        explore(&next, depth - 1, states);
    }
    for hint in [Hint::Worked, Hint::NoAnswer, Hint::Refused] {
        let mut next = run.clone();
        next.hint(hint);
        check(&next);
    }
}

#[test]
fn every_sequence_of_answers_keeps_the_rules() {
    let depth = std::env::var("KMS_JUDGE_DEPTH").map_or(DEPTH, |depth| depth.parse().unwrap());
    let mut states = 0;
    for role in [Role::Primary, Role::DecryptOnly] {
        explore(&Run::start(role), depth, &mut states);
        explore(&Run::well(role), depth, &mut states);
    }
    explore(&Run::denying_when_sealed(), depth, &mut states);
    assert!(states > 30_000, "{states}");
}
