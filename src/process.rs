//! The process's own limits: no core dump of a key, and as many descriptors as the system grants.

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Keeps memory out of core dumps and away from other processes of the user (prctl(2), PR_SET_DUMPABLE),
/// and raises the limit of open files. What the system refuses is told and left.
pub(crate) fn harden() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        tracing::warn!("core dumps cannot be switched off: {error}; set LimitCORE=0 in the unit");
    }
    if let Err(error) = prctl::set_dumpable(false) {
        tracing::warn!("the process cannot be made undumpable: {error}");
    }
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!("the limit of open files stays as it is: {error}");
    }
}
