//! The result of a probe: times and errors, as text and as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::ProbeOptions;
use crate::diagnose::millis;

/// A good round trip.
pub(crate) struct RoundTrip {
    pub(crate) encrypt: Duration,
    pub(crate) decrypt: Duration,
    pub(crate) key_id: String,
    /// Length of the ciphertext, in bytes.
    pub(crate) ciphertext: usize,
}

/// Most different errors; all others are counted together.
const MAX_ERRORS: usize = 20;

/// Times and errors of one worker.
#[derive(Default)]
pub(super) struct Samples {
    encrypt: Vec<Duration>,
    decrypt: Vec<Duration>,
    errors: BTreeMap<String, u64>,
}

impl Samples {
    pub(super) fn add(&mut self, trip: &RoundTrip) {
        self.encrypt.push(trip.encrypt);
        self.decrypt.push(trip.decrypt);
    }

    pub(crate) fn wrong(&mut self, error: String) {
        count(&mut self.errors, error, 1);
    }
}

pub(crate) struct Report {
    socket: PathBuf,
    requested: u64,
    concurrency: u64,
    pub version: String,
    pub healthz: String,
    pub key_id: String,
    pub status_time: Duration,
    pub elapsed: Duration,
    samples: Samples,
}

impl Report {
    /// A report without results.
    pub(crate) fn new(options: &ProbeOptions) -> Self {
        Self {
            socket: options.socket.clone(),
            requested: options.count,
            concurrency: options.concurrency,
            version: String::new(),
            healthz: String::new(),
            key_id: String::new(),
            status_time: Duration::ZERO,
            elapsed: Duration::ZERO,
            samples: Samples::default(),
        }
    }

    /// Counts an error.
    pub(crate) fn wrong(&mut self, error: String) {
        self.samples.wrong(error);
    }

    /// Adds the samples of a worker.
    pub(super) fn take(&mut self, other: Samples) {
        self.samples.encrypt.extend(other.encrypt);
        self.samples.decrypt.extend(other.decrypt);
        for (error, times) in other.errors {
            count(&mut self.samples.errors, error, times);
        }
    }

    fn failures(&self) -> u64 {
        self.samples.errors.values().sum()
    }

    /// Why the probe as a whole failed; `None` when it did not.
    pub(crate) fn problem(&self) -> Option<String> {
        let failures = self.failures();
        (failures > 0).then(|| format!("{failures} checks of {} failed", self.socket.display()))
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("socket   {}\n", self.socket.display());
        if !self.version.is_empty() {
            let time = millis(self.status_time);
            text.push_str(&format!(
                "status   {} {} in {time:.3} ms\nkey_id   {}\n",
                self.version, self.healthz, self.key_id
            ));
        }
        let done = self.samples.encrypt.len();
        text.push_str(&format!("trips    {done} of {} good, {} at once", self.requested, self.concurrency));
        if !self.elapsed.is_zero() {
            text.push_str(&format!(", {:.0} a second", done as f64 / self.elapsed.as_secs_f64()));
        }
        text.push('\n');
        if done > 0 {
            text.push_str("         ms        p50       p90       p99       max\n");
            for (name, times) in [("encrypt", &self.samples.encrypt), ("decrypt", &self.samples.decrypt)] {
                let [p50, p90, p99, max] = percentiles(times);
                text.push_str(&format!("{name}        {p50:>9.3} {p90:>9.3} {p99:>9.3} {max:>9.3}\n"));
            }
        }
        for (error, times) in &self.samples.errors {
            text.push_str(&format!("wrong    {times} × {error}\n"));
        }
        text.truncate(text.trim_end().len());
        text
    }

    pub(crate) fn json(&self) -> String {
        let times = |times: &[Duration]| {
            let [p50, p90, p99, max] = percentiles(times);
            serde_json::json!({ "p50": p50, "p90": p90, "p99": p99, "max": max })
        };
        let report = serde_json::json!({
            "socket": self.socket,
            "ok": self.failures() == 0,
            "status": {
                "version": self.version, "healthz": self.healthz, "key_id": self.key_id,
                "milliseconds": millis(self.status_time),
            },
            "round_trips": {
                "requested": self.requested, "good": self.samples.encrypt.len(), "concurrency": self.concurrency,
                "seconds": self.elapsed.as_secs_f64(),
            },
            "encrypt_milliseconds": times(&self.samples.encrypt),
            "decrypt_milliseconds": times(&self.samples.decrypt),
            "errors": self.samples.errors,
        });
        serde_json::to_string_pretty(&report).unwrap_or_default()
    }
}

fn count(errors: &mut BTreeMap<String, u64>, error: String, times: u64) {
    let label = match errors.len() < MAX_ERRORS || errors.contains_key(&error) {
        true => error,
        false => "further errors".to_owned(),
    };
    *errors.entry(label).or_default() += times;
}

/// p50, p90, p99 and the maximum in milliseconds, by the nearest rank; zeros without samples.
fn percentiles(times: &[Duration]) -> [f64; 4] {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    [50, 90, 99, 100].map(|percent| {
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().map_or(0.0, millis)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        let times: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentiles(&times), [50.0, 90.0, 99.0, 100.0]);
        assert_eq!(percentiles(&[Duration::from_millis(7)]), [7.0; 4]);
        assert_eq!(percentiles(&[]), [0.0; 4]);
    }

    #[test]
    fn the_number_of_different_errors_is_bounded() {
        let mut samples = Samples::default();
        (0..1000).for_each(|number| samples.wrong(format!("error {number}")));
        assert_eq!(samples.errors.len(), MAX_ERRORS + 1);
        assert_eq!(samples.errors.values().sum::<u64>(), 1000);
    }
}
