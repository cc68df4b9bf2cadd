//! The time limits of the admin API in one place. `agent::timing` asserts how they relate to those of the agent.

use std::time::Duration;

/// Longest wait for the result of a reload. The agent needs less: see `agent::timing`. `kms-plugin reload` waits
/// longer.
pub(crate) const RELOAD_TIMEOUT: Duration = Duration::from_secs(25);
/// Longest wait until a changed key is accepted.
pub(crate) const ACCEPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time for a client to send the head of its request.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time for one connection, from accept to close.
pub(super) const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
// A connection must stay open until its command has ended.
const _: () =
    assert!(CONNECTION_TIMEOUT.as_millis() >= HEAD_TIMEOUT.as_millis() + RELOAD_TIMEOUT.as_millis());
