//! How fast writes are sent: the window of [`super::window`], and a limit of writes per second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::window::Window;

/// Longest time without asking again.
const LONGEST: Duration = Duration::from_secs(1);

/// Shared by all writes of a run.
pub(crate) struct Pace {
    started: Instant,
    /// The time between two writes; zero without a limit.
    interval: Duration,
    state: Mutex<State>,
    freed: Notify,
}

struct State {
    window: Window,
    in_flight: usize,
    /// When the next write may be sent by the limit of writes per second.
    next: Duration,
}

/// The permission for one write. Ends with [`Turn::answered`] or [`Turn::refused`], or unused.
pub(super) struct Turn<'a> {
    pace: &'a Pace,
    began: Instant,
}

impl Pace {
    /// At most `parallel` writes at the same time, and `rate` in a second; `None`: no limit.
    pub(crate) fn new(parallel: usize, rate: Option<u32>) -> Self {
        let interval = rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.max(1));
        let state = State { window: Window::new(parallel), in_flight: 0, next: Duration::ZERO };
        Self { started: Instant::now(), interval, state: Mutex::new(state), freed: Notify::new() }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State, Duration) -> T) -> T {
        let now = self.started.elapsed();
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    /// Waits until a write may be sent.
    pub(super) async fn turn(&self) -> Turn<'_> {
        loop {
            let freed = self.freed.notified();
            let wait = self.with(|state, now| {
                if let Err(wait) = state.window.admits(state.in_flight, now) {
                    return Err(wait.unwrap_or(LONGEST));
                }
                if now < state.next {
                    return Err(state.next - now);
                }
                state.in_flight += 1;
                // A pause is not made up for: what was not sent then is not sent at once.
                state.next = state.next.max(now.saturating_sub(self.interval)) + self.interval;
                Ok(())
            });
            match wait {
                Ok(()) => return Turn { pace: self, began: Instant::now() },
                Err(wait) => {
                    let _either = tokio::time::timeout(wait.min(LONGEST), freed).await;
                }
            }
        }
    }
}

impl Turn<'_> {
    /// There was an answer.
    pub(super) fn answered(self) {
        let took = self.began.elapsed();
        self.pace.with(|state, now| state.window.answered(took, now));
    }

    /// The API server cannot do more now, or is away: nothing is sent for `pause`.
    pub(super) fn refused(self, pause: Duration) {
        self.pace.with(|state, now| state.window.refused(pause, now));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pace.with(|state, _| state.in_flight = state.in_flight.saturating_sub(1));
        self.pace.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_and_pauses_are_not_made_up_for() {
        let pace = Pace::new(8, Some(100));
        let started = Instant::now();
        for _ in 0..200 {
            pace.turn().await.answered();
        }
        let took = started.elapsed();
        assert!((Duration::from_millis(1900)..Duration::from_millis(2300)).contains(&took), "{took:?}");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let started = Instant::now();
        for _ in 0..100 {
            pace.turn().await.answered();
        }
        assert!(started.elapsed() > Duration::from_millis(900), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_holds_all_back() {
        let pace = Pace::new(8, None);
        pace.turn().await.refused(Duration::from_secs(7));
        let started = Instant::now();
        let _one = pace.turn().await;
        assert!(started.elapsed() >= Duration::from_secs(7));
        // It was two, and is halved.
        let two = tokio::time::timeout(LONGEST * 3, pace.turn()).await;
        assert!(two.is_err());
    }
}
