//! A simulation: whole agents on a model of the key service, under model API servers, in paused time. Everything
//! follows from one seed: the configuration, the faults, the delays and the jitter.
//!
//! The agent's own code is the real one from `PreparedCore` and `KmsService` down; only HTTP, the clocks and the
//! random delays are replaced. `rule` has what must hold. `scenarios` has directed tests with their figures.
//!
//! - `cargo test --lib simulation` runs a set of seeds; `KMS_SIMULATION_SEEDS=100000` makes it larger, and
//!   `KMS_SIMULATION_FIRST` begins elsewhere.
//! - `cargo test --profile simulation --lib simulation` is built once more, and then ten times as fast.
//! - `KMS_SIMULATION_SEED=123 cargo test --lib simulation::one_seed -- --nocapture` runs one, and prints its events.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test that fails panics
#![allow(clippy::print_stdout)] // a run shows its coverage
#![allow(clippy::await_holding_lock)] // one thread

mod agent;
mod api_server;
mod budget;
mod causes;
mod chance;
mod coverage;
mod fault;
mod figures;
mod fleet;
mod hostile;
mod journal;
mod log;
mod model;
mod node;
mod oracle;
mod rule;
mod run;
mod scenario;
mod scenarios;
mod schedule;
mod watch;
mod world;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use coverage::Coverage;
use run::{Outcome, run, shown};

/// Seeds of a run without `KMS_SIMULATION_SEEDS`: enough for a change at hand. CI runs 1000.
const SEEDS: u64 = 200;
/// A smaller set is too small for the coverage.
const COVERED: u64 = 1000;

/// Longest real time of one seed: in one that takes longer, an agent is busy in a loop in which no time passes.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(300);

/// Failed seeds that are listed.
const SHOWN: usize = 100;

/// A number in the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// What came of a set of seeds.
#[derive(Default)]
struct Total {
    coverage: Coverage,
    failures: Vec<Outcome>,
    longest_window: std::time::Duration,
}

impl Total {
    fn add(&mut self, outcome: Outcome) {
        self.coverage.add(&outcome.faults);
        self.longest_window = self.longest_window.max(outcome.window);
        if outcome.failure.is_some() {
            self.failures.push(outcome);
        }
    }
}

/// Runs every seed, on all cores.
#[test]
fn every_rule_holds_for_every_seed() {
    let seeds = number("KMS_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let first = number("KMS_SIMULATION_FIRST").unwrap_or(0);
    let (next, total) = (AtomicU64::new(first), Mutex::new(Total::default()));
    let started = std::time::Instant::now();
    let running = Mutex::new(BTreeMap::new());
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        scope.spawn(|| watch_for_loops(&running));
        for _ in 0..cores {
            running.lock().unwrap().insert(u64::MAX, std::time::Instant::now() + LONGEST * 1000);
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        running.lock().unwrap().remove(&u64::MAX);
                        return;
                    }
                    running.lock().unwrap().insert(seed, std::time::Instant::now());
                    // A thread of its own: the simulated clocks belong to a thread.
                    let outcome = std::thread::scope(|scope| scope.spawn(|| run(seed)).join());
                    let outcome = outcome.unwrap_or_else(|_| panic!("seed {seed} panicked"));
                    running.lock().unwrap().remove(&seed);
                    total.lock().unwrap().add(outcome);
                }
            });
        }
    });
    let mut total = total.into_inner().unwrap();
    let (kind, pair) = total.coverage.least();
    println!(
        "MEASURED {seeds} seeds in {:.0?}; each fault at least {kind} times, each pair at least {pair} times",
        started.elapsed()
    );
    println!("longest use of an old key_id after a re-creation: {:?}", total.longest_window);
    total.failures.sort_by_key(|outcome| outcome.seed);
    if let Some(first) = total.failures.first() {
        for outcome in total.failures.iter().take(SHOWN) {
            println!("seed {}: {}", outcome.seed, outcome.failure.as_deref().unwrap_or_default());
        }
        panic!("{} seeds fail; the first:\n{}", total.failures.len(), failure(first));
    }
    let gaps = total.coverage.gaps();
    assert!(seeds < COVERED || gaps.is_empty(), "seen too seldom: {gaps:?}");
}

/// Ends the process when a seed takes too long, and names it. Ends when no seed runs any more.
fn watch_for_loops(running: &Mutex<BTreeMap<u64, std::time::Instant>>) {
    loop {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let running = running.lock().unwrap();
        if running.is_empty() {
            return;
        }
        if let Some((seed, _)) = running.iter().find(|(_, since)| since.elapsed() > LONGEST) {
            println!("seed {seed}: Budget: an agent is busy in a loop in which no time passes");
            std::process::exit(101);
        }
    }
}

fn failure(outcome: &Outcome) -> String {
    let again = format!(
        "KMS_SIMULATION_SEED={} cargo test --locked --lib simulation::one_seed -- --nocapture",
        outcome.seed
    );
    format!(
        "seed {}: {}\n{}again: {again}",
        outcome.seed,
        outcome.failure.as_deref().unwrap_or_default(),
        outcome.last
    )
}

/// Runs the seed in `KMS_SIMULATION_SEED`, and prints every event.
#[test]
fn one_seed() {
    let Some(seed) = number("KMS_SIMULATION_SEED") else { return };
    let outcome = run(seed);
    println!("{}{}hash {:016x}", outcome.log, shown(&outcome), outcome.hash);
    assert!(outcome.failure.is_none(), "{}", failure(&outcome));
}

/// A seed gives the same events each time.
#[test]
fn a_seed_repeats_itself() {
    let seeds = number("KMS_SIMULATION_REPEATED").unwrap_or(8);
    let once = |seed| std::thread::spawn(move || run(seed)).join().unwrap();
    for seed in 0..seeds {
        let (first, second) = (once(seed), once(seed));
        if first.hash != second.hash {
            let different = first.log.lines().zip(second.log.lines()).find(|(first, second)| first != second);
            panic!("seed {seed} differs from itself: {different:?}");
        }
    }
}
