//! Since when the same thing is seen, without anything else in between.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

#[derive(Default)]
pub(super) struct Since(Mutex<Option<Instant>>);

impl Since {
    /// It is seen now: for how long, which is no time for the first one.
    pub(super) fn seen(&self) -> Duration {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.get_or_insert_with(Instant::now).elapsed()
    }

    /// Something else is seen.
    pub(super) fn ended(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
