//! Logs the changes of the state: one line for each, at the priority of the new phase, and no more lines than people
//! read.
//!
//! A balancer with a dead member, or an election, can change the reason several times a second. After a few lines, the
//! log is told of the state every ten seconds at most, and how often it changed in between. It always ends with the
//! state as it is. [`PhaseLog`] is pure; the publisher calls it.

use std::time::Duration;

use tokio::time::Instant;

use super::snapshot::{Phase, ReasonKind, Snapshot};

/// Lines that may follow each other without a pause.
const BURST: u32 = 6;
/// Time for one more line.
const INTERVAL: Duration = Duration::from_secs(10);

/// What a line is about: the phase, and the kind of its reason.
type Told = (Phase, Option<ReasonKind>);

fn told(snapshot: &Snapshot) -> Told {
    (snapshot.phase, snapshot.reason.as_ref().map(|reason| reason.kind))
}

/// What the log has been told.
#[derive(Debug)]
pub(super) struct PhaseLog {
    last: Told,
    now: Told,
    /// Changes since the last line.
    changes: u64,
    /// When all of the burst may be used again: each line moves this by one interval.
    full_at: Option<Instant>,
}

impl PhaseLog {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let now = told(snapshot);
        Self { last: now, now, changes: 0, full_at: None }
    }

    /// Notes the state. Returns how often it has changed since the last line, when a line is to be written now.
    pub(super) fn note(&mut self, snapshot: &Snapshot, now: Instant) -> Option<u64> {
        self.note_state(told(snapshot), now)
    }

    fn note_state(&mut self, state: Told, now: Instant) -> Option<u64> {
        if self.now != state {
            self.now = state;
            self.changes += 1;
        }
        // These are never late: an administrator must act, or nothing follows.
        let urgent = matches!(state.0, Phase::Failed | Phase::Stopping) && state.0 != self.last.0;
        if self.now == self.last || !(urgent || self.due().is_some_and(|due| due <= now)) {
            return None;
        }
        self.full_at = Some(self.full_at.unwrap_or(now).max(now) + INTERVAL);
        self.last = state;
        Some(std::mem::take(&mut self.changes))
    }

    /// When the state is to be noted again, since the log does not know it; `None` when it does.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.now != self.last).then(|| {
            let full_at = self.full_at.unwrap_or_else(Instant::now);
            full_at.checked_sub(INTERVAL * (BURST - 1)).unwrap_or(full_at)
        })
    }
}

/// Writes the line: the short line of the state. The fields have the reason in full, and the long remedy.
pub(super) fn write(now: &Snapshot, changes: u64) {
    let mut line = now.line();
    if changes > 1 {
        line += &format!(" ({changes} changes since the last such line)");
    }
    let Some(reason) = &now.reason else {
        tracing::info!(KMS_REASON = "none", "{line}");
        return;
    };
    let (kind, cause, remedy) = (reason.kind.name(), reason.text.as_str(), reason.remedy.as_str());
    match now.phase {
        Phase::Failed => tracing::error!(KMS_REASON = kind, KMS_CAUSE = cause, KMS_REMEDY = remedy, "{line}"),
        Phase::Degraded | Phase::Starting => {
            tracing::warn!(KMS_REASON = kind, KMS_CAUSE = cause, KMS_REMEDY = remedy, "{line}");
        }
        Phase::Ready | Phase::Stopping => {
            tracing::info!(KMS_REASON = kind, KMS_CAUSE = cause, KMS_REMEDY = remedy, "{line}")
        }
    }
}

/// Logs each configured namespace that a key service ignores, once it is known.
pub(super) fn log_namespaces(before: &Snapshot, now: &Snapshot) {
    let known: Vec<_> = before.services().filter_map(|service| service.ignored_namespace.as_ref()).collect();
    for service in now.services() {
        if let Some(warning) = service.ignored_namespace.as_ref().filter(|warning| !known.contains(warning)) {
            tracing::warn!(
                KMS_REASON = "namespace_ignored",
                KMS_REMEDY = warning.remedy,
                "{}: {}",
                service.name,
                warning.text
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: Told = (Phase::Ready, None);
    const AWAY: Told = (Phase::Degraded, Some(ReasonKind::Unreachable));
    const SEALED: Told = (Phase::Degraded, Some(ReasonKind::Sealed));
    const REFUSED: Told = (Phase::Failed, Some(ReasonKind::Denied));

    /// A driver of the log, as the publisher is: notes each change, and the state again when that is due.
    #[tokio::test(start_paused = true)]
    async fn a_state_that_changes_all_the_time_costs_few_lines_and_the_last_one_is_told() {
        let mut log = PhaseLog { last: READY, now: READY, changes: 0, full_at: None };
        let (mut lines, mut changes) = (0, 0);
        for change in 0..1200 {
            let state = if change % 2 == 0 { AWAY } else { SEALED };
            if let Some(counted) = log.note_state(state, Instant::now()) {
                (lines, changes) = (lines + 1, changes + counted);
            }
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert!((BURST..=BURST + 12).contains(&lines), "{lines} lines in two minutes");
        if let Some(due) = log.due() {
            tokio::time::sleep_until(due).await;
            changes += log.note_state(SEALED, Instant::now()).unwrap();
        }
        assert_eq!((log.last, log.due()), (SEALED, None));
        assert_eq!(changes, 1200, "each change is counted");
        assert_eq!(log.note_state(READY, Instant::now()), None, "it waits for its turn");
        assert_eq!(log.note_state(REFUSED, Instant::now()), Some(2), "at once");
        tokio::time::advance(INTERVAL * BURST * 2).await;
        for state in [AWAY, READY, AWAY, READY, AWAY, READY] {
            assert_eq!(log.note_state(state, Instant::now()), Some(1), "after a quiet time");
        }
        assert_eq!(log.note_state(AWAY, Instant::now()), None);
        assert_eq!(log.note_state(READY, Instant::now()), None);
        assert_eq!(log.due(), None, "the log has this state");
    }
}
