//! What can be wrong with the key service, and with the network to it.

use std::time::Duration;

use super::key::Key;

/// One effect of a fault. It holds while it is in the service's list.
#[derive(Clone, Debug)]
pub(in super::super) enum Effect {
    /// Between one agent (or all) and one replica (or all).
    Path {
        node: Option<usize>,
        replica: Option<usize>,
        trouble: Trouble,
    },
    /// One replica, or all.
    Sealed(Option<usize>),
    /// One replica, or all, was removed from its cluster, and still runs.
    Removed(Option<usize>),
    /// There is no active replica, since this time.
    NoLeader(Duration),
    /// The standbys answer with the state of this long ago.
    Lag(Duration),
    /// One replica, or all, belong to a DR secondary.
    Disaster(Option<usize>),
    /// A rate limit quota is used up. The answer may have `Retry-After`, in seconds.
    Throttled(Option<u64>),
    /// The server answers 500.
    Broken,
    /// The policy lost these rights.
    RightsLost {
        encrypt: bool,
        decrypt: bool,
        read: bool,
    },
    /// Logins are refused: the role is locked.
    RoleLocked,
    KeyDeleted,
    SoftDeleted,
    /// The key was deleted, and another one was created under its name.
    Replaced(Key),
    /// The key is as it was at an earlier time: a snapshot was restored.
    RolledBack(Key),
    /// The minimum versions for encryption and decryption.
    MinVersions(u32, u32),
}

/// What is wrong with the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Trouble {
    /// Nothing comes back.
    Hang,
    /// The connection is reset at once.
    Reset,
    /// Each answer takes this much longer.
    Slow(Duration),
    /// A proxy answers with an HTML page and this status.
    Page(u16),
    /// A gateway answers `sys/health` with an HTML page and this status.
    NoHealth(u16),
}
