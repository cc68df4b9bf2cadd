//! What ten tries measured: printed as best, median and worst, and compared with what is promised.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::product::Product;

/// How often each fault is tried. The tries run at the same time.
pub const TRIES: usize = 10;

struct Row {
    what: String,
    unit: &'static str,
    /// What is promised.
    limit: Option<f64>,
    values: Vec<f64>,
}

/// The figures of one test. A try that fails, and a promise that is not kept, end it in [`Figures::finish`] only, so
/// that all figures are printed.
#[derive(Default)]
pub struct Figures {
    rows: Mutex<Vec<Row>>,
    failed: AtomicUsize,
}

impl Figures {
    /// Runs the tries, each on a thread with a runtime of its own: a client of the tests that blocks must hold up no
    /// other try.
    pub fn run(&self, attempt: impl AsyncFn(usize) + Sync) {
        let one = |number: usize| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(attempt(number));
        };
        let one = &one;
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..TRIES).map(|number| scope.spawn(move || one(number))).collect();
            let failed = running.into_iter().filter_map(|attempt| attempt.join().err()).count();
            self.failed.store(failed, Ordering::Relaxed);
        });
    }

    /// A time that must not be longer than `limit`.
    pub fn time(&self, what: &str, limit: Duration, took: Duration) {
        self.add(what, " s", Some(limit.as_secs_f64()), took.as_secs_f64());
    }

    /// A number that must not be larger than `limit`.
    pub fn number(&self, what: &str, limit: Option<f64>, count: f64) {
        self.add(what, "", limit, count);
    }

    fn add(&self, what: &str, unit: &'static str, limit: Option<f64>, value: f64) {
        let mut rows = self.rows.lock().unwrap();
        match rows.iter_mut().find(|row| row.what == what) {
            Some(row) => row.values.push(value),
            None => rows.push(Row { what: what.to_owned(), unit, limit, values: vec![value] }),
        }
    }

    /// Prints everything, and fails where a try failed or a promise was not kept.
    pub fn finish(self) {
        let failed = self.failed.into_inner();
        let mut rows = self.rows.into_inner().unwrap();
        rows.sort_by(|one, other| one.what.cmp(&other.what));
        let mut broken = Vec::new();
        for Row { what, unit, limit, mut values } in rows {
            values.sort_by(f64::total_cmp);
            let (best, worst) = (values[0], values[values.len() - 1]);
            let median = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
            let digits = if unit.is_empty() { 0 } else { 2 };
            let shown = |value: f64| format!("{value:.digits$}{unit}");
            let promised = limit.map(|limit| format!("; at most {limit}{unit}")).unwrap_or_default();
            let line = format!(
                "{}: {what}: best {}, median {}, worst {} of {}{promised}",
                Product::chosen().name(),
                shown(best),
                shown(median),
                shown(worst),
                values.len()
            );
            println!("MEASURED {line}");
            if values.len() != TRIES || limit.is_some_and(|limit| worst > limit) {
                broken.push(line);
            }
        }
        assert!(
            failed == 0 && broken.is_empty(),
            "{failed} tries failed; promises not kept:\n{}",
            broken.join("\n")
        );
    }
}
