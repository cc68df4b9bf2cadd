//! How many writes may be sent at the same time: a pure function of the answers and of the time.
//!
//! It grows by one for each window of good answers. It is halved when an API server refuses for its load (429, priority
//! and fairness), when it is away, and when the answers become slow.

use std::time::Duration;

/// Where it starts.
const FIRST: f64 = 2.0;
/// Shortest time between two halvings: the answers of one moment are one sign.
const APART: Duration = Duration::from_secs(1);
/// Answers that take this many times as long as the fastest average are slow.
const SLOW: f64 = 4.0;
/// Answers faster than this are never slow, in seconds.
const FAST: f64 = 0.25;
/// The weight of the newest answer in the average.
const WEIGHT: f64 = 0.05;
/// How much the fastest average rises with each answer, so that an old value is forgotten.
const FORGET: f64 = 1.0005;

/// The window. Times are since any fixed moment.
#[derive(Debug)]
pub(super) struct Window {
    size: f64,
    most: f64,
    halved: Option<Duration>,
    average: Option<f64>,
    fastest: f64,
    /// Nothing is sent before.
    not_before: Duration,
}

impl Window {
    /// At most `most` writes at the same time; at least one.
    pub(super) fn new(most: usize) -> Self {
        let most = u32::try_from(most.max(1)).map_or(f64::from(u32::MAX), f64::from);
        Self {
            size: FIRST.min(most),
            most,
            halved: None,
            average: None,
            fastest: f64::INFINITY,
            not_before: Duration::ZERO,
        }
    }

    /// Whether one more may be sent now; otherwise when to ask again, if time alone decides.
    pub(super) fn admits(&self, in_flight: usize, now: Duration) -> Result<(), Option<Duration>> {
        if now < self.not_before {
            return Err(Some(self.not_before.saturating_sub(now)));
        }
        let in_flight = u32::try_from(in_flight).map_or(f64::INFINITY, f64::from);
        if in_flight < self.size.floor() { Ok(()) } else { Err(None) }
    }

    /// A good answer, after this time.
    pub(super) fn answered(&mut self, took: Duration, now: Duration) {
        let took = took.as_secs_f64();
        let average = self.average.map_or(took, |average| average + WEIGHT * (took - average));
        self.average = Some(average);
        self.fastest = (self.fastest * FORGET).min(average);
        if average > FAST && average > self.fastest * SLOW {
            if self.halve(now) {
                // The next sign must come from answers to fewer writes.
                self.average = None;
            }
        } else {
            self.size = (self.size + 1.0 / self.size).min(self.most);
        }
    }

    /// The API server cannot do more now. Nothing is sent for `pause`.
    pub(super) fn refused(&mut self, pause: Duration, now: Duration) {
        self.halve(now);
        self.not_before = self.not_before.max(now + pause);
    }

    fn halve(&mut self, now: Duration) -> bool {
        if self.halved.is_some_and(|last| now.saturating_sub(last) < APART) {
            return false;
        }
        self.halved = Some(now);
        self.size = (self.size / 2.0).max(1.0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn size(window: &Window, now: Duration) -> usize {
        (0..).find(|in_flight| window.admits(*in_flight, now).is_err()).unwrap()
    }

    #[test]
    fn good_answers_open_it_to_the_limit() {
        let mut window = Window::new(8);
        assert_eq!(size(&window, Duration::ZERO), 2);
        for at in 0..200 {
            window.answered(5 * MS, at * MS);
        }
        assert_eq!(size(&window, Duration::from_secs(1)), 8);
        assert_eq!(size(&Window::new(0), Duration::ZERO), 1, "never zero");
    }

    #[test]
    fn a_refusal_halves_it_once_and_pauses() {
        let mut window = Window::new(8);
        (0..200).for_each(|at| window.answered(5 * MS, at * MS));
        let now = Duration::from_secs(10);
        for _ in 0..8 {
            window.refused(Duration::from_secs(3), now);
        }
        assert_eq!(window.admits(0, now), Err(Some(Duration::from_secs(3))));
        let later = now + Duration::from_secs(3);
        assert_eq!(size(&window, later), 4, "eight refusals of one moment count once");
        for second in 3..20 {
            window.refused(Duration::ZERO, now + Duration::from_secs(second));
        }
        assert_eq!(size(&window, now + Duration::from_secs(60)), 1);
    }

    #[test]
    fn slow_answers_halve_it() {
        let mut window = Window::new(8);
        (0..200).for_each(|at| window.answered(20 * MS, at * MS));
        assert_eq!(size(&window, Duration::from_secs(1)), 8);
        (0..20).for_each(|at| window.answered(900 * MS, Duration::from_secs(10) + at * MS));
        assert!(size(&window, Duration::from_secs(11)) <= 4);
        // Slow from the beginning is not a sign: nothing is known to be faster.
        let mut slow = Window::new(8);
        (0..100).for_each(|at| slow.answered(900 * MS, at * MS));
        assert_eq!(size(&slow, Duration::from_secs(1)), 8);
    }
}
