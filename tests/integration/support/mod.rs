//! The parts that tests are made of.

pub mod agent;
pub mod bao;
pub mod checked;
pub mod etcd;
pub mod fake;
pub mod jwt;
pub mod kms;
pub mod load;
pub mod pki;
pub mod proxy;
pub mod store;
pub mod tools;

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

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

/// Stops a child of ours in its tracks, and waits until the last of its threads stands still.
pub fn freeze(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
}
