//! Folds repeated log lines: the first at once, then one in ten seconds that says how many there were.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long repetitions are collected.
const WINDOW: Duration = Duration::from_secs(10);

/// Counts lines by a label. Holds a bounded number of labels; beyond it, lines are not folded.
pub(crate) struct Fold {
    seen: Mutex<HashMap<String, (Instant, u64)>>,
    most: usize,
}

impl Fold {
    /// A fold of at most `most` labels.
    pub(crate) fn new(most: usize) -> Self {
        Self { seen: Mutex::default(), most }
    }

    /// Whether a line with this label is written now; if so, for how many occurrences it stands.
    pub(crate) fn admit(&self, label: &str) -> Option<u64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, count)) = seen.get_mut(label) {
            *count += 1;
            if since.elapsed() < WINDOW {
                return None;
            }
            *since = Instant::now();
            return Some(std::mem::take(count));
        }
        if seen.len() >= self.most {
            seen.retain(|_, (since, _)| since.elapsed() < WINDOW);
        }
        if seen.len() < self.most {
            seen.insert(label.to_owned(), (Instant::now(), 0));
        }
        Some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn repetitions_are_counted_and_told_once_a_window() {
        let fold = Fold::new(2);
        assert_eq!(fold.admit("a"), Some(1));
        assert!((0..5).all(|_| fold.admit("a").is_none()));
        assert_eq!(fold.admit("b"), Some(1), "labels are folded apart");
        tokio::time::advance(WINDOW).await;
        assert_eq!(fold.admit("a"), Some(6));
        assert_eq!(fold.admit("a"), None);
    }
}
