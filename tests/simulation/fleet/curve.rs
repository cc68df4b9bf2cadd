//! The requests of a fleet over time, in tenths of a second.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::agent::simulation::model::service::Sent;
use crate::clock::Purpose;

/// Tenths of a second in a second.
const TENTHS: usize = 10;

/// How many requests there were in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub audited: usize,
    /// `sys/health`, and what no server has seen.
    pub others: usize,
}

#[derive(Clone, Debug, Default)]
struct Tenth {
    count: Count,
    /// What the audited ones were, and for whom.
    kinds: BTreeMap<(&'static str, &'static str), usize>,
}

pub(super) struct Curve {
    title: &'static str,
    /// The tenth of a second since boot in which the event is.
    event: u64,
    /// By the tenth of a second since boot.
    tenths: BTreeMap<u64, Tenth>,
}

fn tenth_of(at: Duration) -> u64 {
    u64::try_from(at.as_millis() / 100).unwrap()
}

impl Curve {
    pub(super) fn new(title: &'static str) -> Self {
        Self { title, event: 0, tenths: BTreeMap::new() }
    }

    pub(super) fn title(&self) -> &'static str {
        self.title
    }

    /// The event is now.
    pub(super) fn begin(&mut self, now: Duration) {
        self.event = tenth_of(now);
    }

    pub(super) fn add(&mut self, requests: &[Sent]) {
        for sent in requests {
            let tenth = self.tenths.entry(tenth_of(sent.at)).or_default();
            if sent.audited {
                tenth.count.audited += 1;
                let whose = if sent.purpose == Purpose::ApiServer { "API server" } else { "agent" };
                *tenth.kinds.entry((sent.operation, whose)).or_default() += 1;
            } else {
                tenth.count.others += 1;
            }
        }
    }

    /// Leaves only what is around the event.
    pub(super) fn cut(&mut self, before: Duration, after: Duration) {
        let (first, end) = (self.event.saturating_sub(tenth_of(before)), self.event + tenth_of(after));
        self.tenths.retain(|at, _| (first..end).contains(at));
    }

    /// Each tenth of a second, from the first to the last: also the empty ones.
    fn all(&self) -> Vec<Count> {
        let (Some((first, _)), Some((last, _))) =
            (self.tenths.first_key_value(), self.tenths.last_key_value())
        else {
            return Vec::new();
        };
        (*first..=*last).map(|at| self.tenths.get(&at).map(|tenth| tenth.count).unwrap_or_default()).collect()
    }

    /// The most of each kind within any second, not only within those of the clock.
    pub(super) fn peak(&self) -> Count {
        let all = self.all();
        let most = |of: fn(&Count) -> usize| {
            let sums = all.windows(TENTHS).map(|second| second.iter().map(of).sum::<usize>());
            sums.max().unwrap_or_default()
        };
        Count { audited: most(|count| count.audited), others: most(|count| count.others) }
    }

    /// Requests in each second from the first one, with the second, of which the event is 0.
    #[allow(clippy::cast_precision_loss)] // minutes
    pub(super) fn seconds(&self) -> Vec<(f64, Count)> {
        let first = self.tenths.first_key_value().map_or(self.event, |(first, _)| *first);
        let from = (first as f64 - self.event as f64) / TENTHS as f64;
        let sum = |second: &[Count]| {
            second.iter().fold(Count::default(), |sum, count| Count {
                audited: sum.audited + count.audited,
                others: sum.others + count.others,
            })
        };
        let seconds = self.all().chunks(TENTHS).map(sum).collect::<Vec<_>>();
        seconds.into_iter().enumerate().map(|(number, count)| (from + number as f64, count)).collect()
    }

    /// The audited requests of the seconds around the highest one, by what they were.
    pub(super) fn around_the_peak(&self) -> String {
        let all = self.all();
        let sums = all.windows(TENTHS).map(|second| second.iter().map(|count| count.audited).sum::<usize>());
        let highest = sums.enumerate().max_by_key(|(_, sum)| *sum).map_or(0, |(place, _)| place as u64);
        let first = self.tenths.first_key_value().map_or(0, |(first, _)| *first) + highest;
        let mut text = String::new();
        for second in 0..7_u64 {
            let from = (first + second * TENTHS as u64).saturating_sub(3 * TENTHS as u64);
            let mut kinds = BTreeMap::<_, usize>::new();
            for tenth in self.tenths.range(from..from + TENTHS as u64).map(|(_, tenth)| tenth) {
                for (kind, count) in &tenth.kinds {
                    *kinds.entry(*kind).or_default() += count;
                }
            }
            let at = i128::from(from) - i128::from(self.event);
            text += &format!("{at:>5} tenths: {kinds:?}\n");
        }
        text
    }
}

impl Display for Curve {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let (peak, all) = (self.peak(), self.all());
        let mean = |of: fn(&Count) -> usize| all.iter().map(of).sum::<usize>() * TENTHS / all.len().max(1);
        write!(
            formatter,
            "{}: at most {} audited and {} unaudited requests within a second, {} and {} on average",
            self.title,
            peak.audited,
            peak.others,
            mean(|count| count.audited),
            mean(|count| count.others)
        )
    }
}
