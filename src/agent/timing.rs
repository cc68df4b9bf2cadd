//! The agent's own time limits in one place, and how they relate to those of the admin API.
//!
//! Must not hold what an administrator sets (`config`) or how often key services are checked (`health`).

use std::time::Duration;

use crate::admin::timing::{ACCEPT_TIMEOUT, RELOAD_TIMEOUT};

/// Longest time until a round trip works with a reloaded configuration. It must be enough for a login and a second
/// address after one that hangs.
pub(super) const VERIFY_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest time that a reload then waits for the first check of the key services that only unwrap.
pub(super) const DECRYPT_ONLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that a reload then takes to make a local KEK.
pub(super) const PREPARE_TIMEOUT: Duration = Duration::from_secs(3);
/// All of a reload, after its files are read. If they are on a file system that hangs, the reload fails before that.
const RELOAD: Duration = VERIFY_TIMEOUT.saturating_add(DECRYPT_ONLY_TIMEOUT).saturating_add(PREPARE_TIMEOUT);
// The admin API must still be waiting when a reload ends.
const _: () = assert!(RELOAD_TIMEOUT.as_millis() > RELOAD.as_millis());

/// Longest time to read the key before a change of it is accepted.
pub(super) const ACCEPT_READ_TIMEOUT: Duration = Duration::from_secs(3);
const _: () = assert!(ACCEPT_TIMEOUT.as_millis() > ACCEPT_READ_TIMEOUT.as_millis());

/// Longest time to read the files that a configuration names, before the agent tells that their file system hangs.
pub(super) const FILES_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time to read the configuration, and then those files.
pub(super) const LOAD_TIMEOUT: Duration = Duration::from_secs(10);
/// What a stop may take in addition to `server.drain_timeout`, before the process is ended without its help.
pub(super) const STOP_MARGIN: Duration = Duration::from_secs(3);

/// What a start may take in addition to `health.ready_timeout`; systemd waits for both together.
pub(super) const START_MARGIN: Duration = Duration::from_secs(30);

/// A server that fails more often than [`MAX_RESTARTS`] times within this time ends the process.
pub(super) const RESTART_WINDOW: Duration = Duration::from_secs(60);
pub(super) const MAX_RESTARTS: usize = 3;

/// Parts of systemd's watchdog interval (`WatchdogSec=`): the pause between two keep-alives is a third of it, a
/// Status call may take a quarter, and the accept loop must have run within half of it.
pub(super) const WATCHDOG_PAUSE: u32 = 3;
pub(super) const WATCHDOG_CALL: u32 = 4;
pub(super) const WATCHDOG_HEARTBEAT: u32 = 2;
// 1/3 + 1/4 < 1: a slow Status call does not delay the next keep-alive beyond the interval.
const _: () = assert!(WATCHDOG_PAUSE + WATCHDOG_CALL < WATCHDOG_PAUSE * WATCHDOG_CALL);

/// Longest time for one call that makes or prefetches a local KEK.
pub(super) use crate::local_kek::CALL_TIMEOUT as LOCAL_KEK_CALL_TIMEOUT;
/// Pause between two prefetches: ten calls a second, in addition to those of the API server.
pub(super) const PREFETCH_PAUSE: Duration = Duration::from_millis(100);
/// First and longest delay after a failed prefetch, or a failed write of the list.
pub(super) const LOCAL_KEK_RETRY_DELAYS: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(60));
/// Longest pause until expired local KEKs are wiped. The timer does not count the time that a machine is suspended;
/// the expiry does. An expired key is never used, even before it is wiped.
pub(super) const MAX_WIPE_PAUSE: Duration = Duration::from_secs(30);
/// How often keys of key services that are not configured are wiped.
pub(super) const RETAIN_INTERVAL: Duration = Duration::from_secs(60);
// A reload caches keys before its configuration is in use. At most one such wipe can happen meanwhile, and the reload
// makes its local KEK after it.
const _: () = assert!(RETAIN_INTERVAL.as_millis() > RELOAD.as_millis());
/// Changes of the state and of the cache within this time are handled together, and changes of the list of wrapped keys
/// are written together. The cache changes with every Encrypt.
pub(super) const LOCAL_KEK_CHANGE_DELAY: Duration = Duration::from_secs(1);

/// How often a configuration that does not load is read again, beside the reports of inotify.
pub(super) const CONFIG_INTERVAL: Duration = Duration::from_secs(2);
/// Time from a change of its files until it is read.
pub(super) const CONFIG_SETTLE: Duration = Duration::from_millis(200);
/// Longest time for the last answers of a process that had no configuration.
pub(super) const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How often memory that is free inside the process is given back to the system.
pub(super) const MEMORY_INTERVAL: Duration = Duration::from_secs(30);
