//! The event log of one simulation: what happened, and when.

use std::fmt::Display;
use std::sync::Mutex;
use std::time::Duration;

use crate::clock::simulated;
use crate::retry::simulated::mix;

#[derive(Default)]
pub(super) struct Log {
    lines: Mutex<Vec<(Duration, String)>>,
    /// Without lines: for many nodes over a long time.
    is_off: bool,
}

impl Log {
    /// One that keeps nothing.
    pub(super) fn off() -> Self {
        Self { is_off: true, ..Self::default() }
    }

    pub(super) fn add(&self, event: impl Display) {
        if self.is_off {
            return;
        }
        self.lines.lock().unwrap().push((simulated::elapsed().unwrap_or_default(), event.to_string()));
    }

    /// A hash over the whole log. Events of the same nanosecond count in any order: tokio does not define the order
    /// of tasks that become ready together.
    pub(super) fn hash(&self) -> u64 {
        let mut lines = self.lines.lock().unwrap().clone();
        lines.sort();
        let text = lines.iter().map(|(at, text)| format!("{at:?} {text}\n")).collect::<String>();
        text.bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)))
    }

    /// The last events, as lines of text.
    pub(super) fn last(&self, count: usize) -> String {
        let lines = self.lines.lock().unwrap();
        let last = &lines[lines.len().saturating_sub(count)..];
        last.iter().map(|(at, text)| format!("{:>10.4} {text}\n", at.as_secs_f64() - 1000.0)).collect()
    }
}
