//! What the tests share: servers, the agent, clients, faults.

pub mod agent;
pub mod checked;
pub mod etcd;
pub mod fake;
pub mod helper;
pub mod hung;
pub mod jwt;
pub mod kms;
pub mod launch;
pub mod load;
pub mod memory;
pub mod notified;
pub mod pki;
pub mod process;
pub mod product;
pub mod proxy;
pub mod store;
pub mod tools;
pub mod vault;

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// How long a test waits for what must happen: far longer than it takes, since a busy machine may be slow. A test that
/// measures a promised deadline uses that deadline instead, and says so.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Calls `ask` until it succeeds; fails with its last error after [`PATIENCE`]. Better than a fixed sleep: a slow machine
/// only waits longer.
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

/// Stops a child process with SIGSTOP, and waits until all of its threads stand still.
pub fn freeze(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
}
