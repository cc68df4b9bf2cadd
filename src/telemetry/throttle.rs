//! Limits repeated log lines: the first line is logged at once, then one line in ten seconds with the number of
//! occurrences.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The time between two lines with the same label.
const WINDOW: Duration = Duration::from_secs(10);

/// Counts log lines by a label. The number of labels is limited; lines with further labels are not limited.
pub(crate) struct LogThrottle {
    /// For each label, the time of the last logged line, and the lines that were suppressed since then.
    labels: Mutex<HashMap<String, (Instant, u64)>>,
    max_labels: usize,
}

impl LogThrottle {
    pub(crate) fn new(max_labels: usize) -> Self {
        Self { labels: Mutex::default(), max_labels }
    }

    /// Counts an occurrence. Returns the number of occurrences since the last logged line, if a line is to be logged
    /// now.
    pub(crate) fn admit(&self, label: &str) -> Option<u64> {
        let mut labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, count)) = labels.get_mut(label) {
            *count += 1;
            if since.elapsed() < WINDOW {
                return None;
            }
            *since = Instant::now();
            return Some(std::mem::take(count));
        }
        if labels.len() >= self.max_labels {
            labels.retain(|_, (since, _)| since.elapsed() < WINDOW);
        }
        if labels.len() < self.max_labels {
            labels.insert(label.to_owned(), (Instant::now(), 0));
        }
        Some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn repeated_lines_are_counted_and_logged_once_in_a_window() {
        let throttle = LogThrottle::new(2);
        assert_eq!(throttle.admit("a"), Some(1));
        assert!((0..5).all(|_| throttle.admit("a").is_none()));
        assert_eq!(throttle.admit("b"), Some(1), "each label has its own count");
        tokio::time::advance(WINDOW).await;
        assert_eq!(throttle.admit("a"), Some(6));
        assert_eq!(throttle.admit("a"), None);
    }
}
