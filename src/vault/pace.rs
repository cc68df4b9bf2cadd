//! How long the answers of one address took lately, and so when another attempt there is worth its cost.
//!
//! A second attempt helps where the first one went to a dead server behind a balancer. Where the server is only slow, it
//! needs one more connection, whose handshake costs the server more than the request: with two more attempts for each
//! call, a server with a twentieth of a processor answered a fifth of what it answers without them. So an attempt begins
//! beside another one only when that takes much longer than answers do.
//!
//! Must not know what was asked. Times are arguments.

use std::time::Duration;

use tokio::time::Instant;

/// An answer that takes this many times as long as usual is late.
const LATE: u32 = 2;
/// Each answer has this part in the figure: of about so many answers it is the mean.
const PART: u32 = 8;
/// After this time without an answer nothing is known any more.
const MAX_AGE: Duration = Duration::from_secs(60);

/// The weighted mean of the last answers' times, and when the last one came.
#[derive(Debug, Default)]
pub(super) struct Pace(Option<(Duration, Instant)>);

impl Pace {
    /// Records that an answer took this long.
    pub(super) fn answered(&mut self, took: Duration, now: Instant) {
        let mean = match self.mean(now) {
            Some(mean) => mean * (PART - 1) / PART + took / PART,
            None => took,
        };
        self.0 = Some((mean, now));
    }

    /// Records that no answer came in this time: it would have taken longer.
    pub(super) fn not_answered(&mut self, waited: Duration, now: Instant) {
        if self.mean(now).is_none_or(|mean| waited > mean) {
            self.answered(waited, now);
        }
    }

    /// How long an attempt is not late. Zero when nothing is known.
    pub(super) fn patience(&self, now: Instant) -> Duration {
        self.mean(now).unwrap_or_default() * LATE
    }

    fn mean(&self, now: Instant) -> Option<Duration> {
        self.0.filter(|(_, at)| now.duration_since(*at) < MAX_AGE).map(|(mean, _)| mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_follows_the_answers() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert_eq!(pace.patience(now), Duration::ZERO, "nothing is known");
        pace.answered(MS, now);
        assert_eq!(pace.patience(now), 2 * MS);
        for _ in 0..20 {
            pace.answered(2000 * MS, now);
        }
        assert!(pace.patience(now) > 3500 * MS, "{pace:?}");
        for _ in 0..20 {
            pace.answered(MS, now);
        }
        assert!(pace.patience(now) < 400 * MS, "{pace:?}");
    }

    #[test]
    fn a_few_late_answers_among_many_change_little() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.answered(MS, now);
        pace.answered(3000 * MS, now);
        assert!(pace.patience(now) < 760 * MS, "{pace:?}");
    }

    #[test]
    fn a_time_without_an_answer_counts_when_it_is_longer() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.not_answered(3000 * MS, now);
        assert_eq!(pace.patience(now), 6000 * MS);
        pace.not_answered(MS, now);
        assert_eq!(pace.patience(now), 6000 * MS, "refused at once: no answer");
    }

    #[test]
    fn what_is_old_says_nothing() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.answered(3000 * MS, now);
        assert_eq!(pace.patience(now + MAX_AGE), Duration::ZERO);
        pace.answered(MS, now + MAX_AGE);
        assert_eq!(pace.patience(now + MAX_AGE), 2 * MS);
    }
}
