//! The parts that tests are made of.

pub mod agent;
pub mod bao;
pub mod fake;
pub mod jwt;
pub mod kms;
pub mod load;
pub mod pki;
pub mod proxy;
pub mod tools;

use std::time::{Duration, Instant};

/// How long a test waits for what must come: far longer than it takes, since a machine can be slow and still right.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Asks until the answer is there; fails with the last answer when it takes too long. Never a bare sleep:
/// a slow machine only waits longer.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(last) if started.elapsed() > PATIENCE => panic!("{what}: {last}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
